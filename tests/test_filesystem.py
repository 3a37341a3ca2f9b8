"""What is written once is whole, whenever its writer dies."""

from pathlib import Path

import pytest

from longva_ray.filesystem import write_once


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
