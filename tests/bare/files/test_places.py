"""Paths and URIs: what is fetched, what a folder holds, how names are put together."""

import http.server
import json
import os
import re
import threading
from pathlib import Path

import fsspec
import pytest

from longva_ray.data.images.chat import read_samples
from longva_ray.data.text.files import find_files
from longva_ray.evaluate.questions.records import read_questions
from longva_ray.evaluate.text.haystack import read_essays
from longva_ray.evaluate.video.needles import read_needles
from longva_ray.files.places import NoFileError, absolute, child, local_file, read_file
from longva_ray.files.videos import list_folder


def test_a_folder_gives_its_files_as_places_of_the_same_kind(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    memory = fsspec.filesystem("memory")
    for name in ("two words.mp4", "100%.mp4"):
        (tmp_path / name).write_text(name)
        memory.pipe(f"/clips/{name}", name.encode())
    for folder in (str(tmp_path), f"file://{tmp_path}", f"file://{tmp_path}/", "memory://clips"):
        listing = list_folder(folder)
        assert listing is not None
        assert all(place.startswith(folder.rstrip("/")) for place in listing.files)
        found = []
        for place in listing.files:
            with local_file(place) as path:
                found.append(path.read_text())
        assert found == ["100%.mp4", "two words.mp4"]


class CutShort(http.server.BaseHTTPRequestHandler):
    """Promises a megabyte, sends half of it and hangs up."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(2**20))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(bytes(2**19))
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def test_what_cannot_be_fetched_is_an_os_error_that_names_it() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), CutShort) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cut = f"http://127.0.0.1:{server.server_port}/cut.mp4"
        for place in (cut, "gopher://a/b.mp4", "http://127.0.0.1:1/refused.mp4"):
            with pytest.raises(OSError, match=f"^{re.escape(place)} "), local_file(place):
                pass
        server.shutdown()


def test_an_error_of_the_user_of_a_copy_stays_what_it_is() -> None:
    fsspec.filesystem("memory").pipe("/clips/a.mp4", b"a")
    with pytest.raises(KeyError), local_file("memory://clips/a.mp4"):
        raise KeyError


@pytest.mark.parametrize("place", ["/nowhere", "memory://nothing", "gopher://a/b", "/etc/hostname"])
def test_what_is_no_folder_gives_none(place: str) -> None:
    assert list_folder(place) is None


def test_names_go_before_the_query_of_a_uri() -> None:
    assert child("/data/", "a/b") == "/data/a/b"
    assert child("what?", "a") == "what?/a"
    assert child("s3://bucket/data", "a/b") == "s3://bucket/data/a/b"
    assert child("s3://bucket/data/?region=x&y=z", "a") == "s3://bucket/data/a?region=x&y=z"


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """Nobody writes to it, so whoever opens it to read waits for ever."""
    os.mkfifo(tmp_path / "pipe.txt")
    return tmp_path / "pipe.txt"


def test_devices_pipes_and_folders_are_refused_where_a_file_is_wanted(pipe: Path) -> None:
    link = pipe.with_name("link.jsonl")
    link.symlink_to("/dev/zero")  # without end
    for place, kind in (("/dev/zero", "device"), (link, "device"), (pipe, "pipe")):
        for read in (read_file, read_questions, read_needles, open_local):
            with pytest.raises(NoFileError, match=rf"^{place} is a .*{kind}.*want a file"):
                read(str(place))
        with pytest.raises(ValueError, match=rf"{place} is a .*{kind}"):
            read_samples([str(place)], image_folder=None, seed=0)
        with pytest.raises(ValueError, match=rf"{place} is a .*{kind}"):
            find_files([str(place)])
    for read in (read_file, read_questions, open_local):
        with pytest.raises(NoFileError, match=f"^{pipe.parent} is a folder; want a file"):
            read(str(pipe.parent))
    with pytest.raises(NoFileError, match=r"pipe\.txt is a device or a pipe"):
        read_essays(str(pipe.parent))


def test_a_name_that_begins_with_a_tilde_is_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("~no such user.mp4", "~$draft.docx"):
        Path(name).write_text("a")
        assert absolute(name) == str(tmp_path / name)
        assert read_file(name) == b"a"
    assert absolute("~/a.mp4") == str(Path.home() / "a.mp4")


def test_a_needle_whose_image_is_a_device_is_named(tmp_path: Path) -> None:
    row = {"path": "/dev/zero", "prompt": "?", "answer": "a"}
    (tmp_path / "needles.json").write_text(json.dumps([row]))
    with pytest.raises(ValueError, match=r"image of needle 0 of .*: /dev/zero is a device"):
        read_needles(tmp_path / "needles.json")


def open_local(place: str) -> None:
    with local_file(place):
        pass
