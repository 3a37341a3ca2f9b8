"""What is written once is whole, whenever its writer dies."""

import http.server
import re
import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import pytest

from longva_ray.files.folder import lock, write_once
from longva_ray.files.places import child, list_folder, local_file


def fill(folder: Path, *, names: str, fail: bool = False) -> None:
    folder.mkdir()
    for name in names:
        (folder / name).write_text(name)
    if fail:
        raise InterruptedError


def test_a_broken_folder_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with pytest.raises(InterruptedError):
        write_once(folder, lambda path: fill(path, names="abc", fail=True))
    assert not folder.exists()
    write_once(folder, lambda path: fill(path, names="de"))
    assert sorted(path.name for path in folder.iterdir()) == ["d", "e"]
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


def test_a_file_is_not_written_twice(tmp_path: Path) -> None:
    file = tmp_path / "file.mp4"

    def write(path: Path) -> None:
        assert path.suffix == ".mp4"  # which tells writers of videos the container
        path.write_text("first")

    write_once(file, write)
    write_once(file, lambda path: path.write_text("second"))
    assert file.read_text() == "first"


def test_a_folder_gives_its_files_as_places_of_the_same_kind(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    memory = fsspec.filesystem("memory")
    for name in ("two words.mp4", "100%.mp4"):
        (tmp_path / name).write_text(name)
        memory.pipe(f"/clips/{name}", name.encode())
    for folder in (str(tmp_path), f"file://{tmp_path}", f"file://{tmp_path}/", "memory://clips"):
        places = list_folder(folder)
        assert places is not None
        assert all(place.startswith(folder.rstrip("/")) for place in places)
        found = []
        for place in places:
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


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys; from longva_ray.files.folder import lock;"
        "held = lock(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(ValueError, match="held by another process"):
        lock(tmp_path / "lock")
    holder.kill()
    holder.communicate()
    lock(tmp_path / "lock").close()
