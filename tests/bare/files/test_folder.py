"""What has its name is whole, whenever its writer dies, and a lock ends with its holder."""

import errno
import fcntl
import os
import pickle
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from longva_ray.files.folder import Folder, lock, write_once


@pytest.fixture(params=["disk", "fsspec"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(tmp_path if request.param == "disk" else f"memory://{tmp_path.name}")


def test_names_may_lead_into_folders_inside(folder: Folder) -> None:
    folder.write("one", b"1")
    folder.write("a/b/two", b"22")
    assert (folder.read("one"), folder.read("a/b/two")) == (b"1", b"22")
    assert folder.inside("a/b").read("two") == b"22"
    assert (folder.size("a/b/two"), folder.size("a/b"), folder.size("none")) == (2, None, None)
    assert [info.base_name for info in folder.files()] == ["one"]
    assert [info.base_name for info in folder.files("a", recursive=True)] == ["two"]
    assert folder.files("none") == []
    assert folder.files(".incoming") == []
    for name in ("one", "a", "none"):
        folder.delete(name)
    assert folder.files(recursive=True) == []


def test_what_breaks_off_leaves_what_was_there(folder: Folder) -> None:
    def break_off() -> None:
        with folder.writing("name") as file:
            file.write(b"half")
            raise InterruptedError

    folder.write("name", b"before")
    with pytest.raises(InterruptedError):
        break_off()
    assert folder.read("name") == b"before"
    assert len(folder.files(".incoming")) == 1


def test_half_written_files_are_deleted_once_old(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with pytest.raises(InterruptedError), folder.writing("name"):
        raise InterruptedError
    assert folder.delete_half_written(timedelta(hours=1)) == 0
    (left,) = (tmp_path / ".incoming").iterdir()
    os.utime(left, (0, 0))
    assert folder.delete_half_written(timedelta(hours=1)) == 1
    assert not left.exists()


def test_a_folder_travels_by_its_place(folder: Folder) -> None:
    folder.write("name", b"content")
    assert pickle.loads(pickle.dumps(folder)).read("name") == b"content"


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
    with lock(tmp_path / "lock"):
        pass


def test_one_process_may_hold_a_lock_twice(tmp_path: Path) -> None:
    with lock(tmp_path / "lock"), lock(tmp_path / "lock"):
        pass


def test_a_file_system_without_locks_lets_everybody_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    caplog.set_level("INFO")
    with lock(tmp_path / "lock"):
        assert "cannot be locked" in caplog.text
