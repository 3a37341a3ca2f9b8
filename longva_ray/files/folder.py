"""A folder on a disk or an object store: read and list it, write a file whole or not at all.

    folder = Folder("s3://bucket/shards")
    folder.write("video/part-00000.arrow", content)
    content = folder.read("video/video.json")

Names are relative to the folder and may lead into folders inside. A file under its own name is
complete, because it is written to `.incoming` first and then renamed. `write_once` and `lock` do
the same for what only a local disk can hold. What it does not do: keep two writers of one name
apart; the last one wins.
"""

import contextlib
import logging
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
from filelock import FileLock, Timeout

from longva_ray.files.places import child, open_place

logger = logging.getLogger(__name__)

INCOMING = ".incoming"
"""Where files lie until they are whole: inside the folder, so that a rename is atomic."""


class Folder:
    """A place that was looked up once. It travels between processes by its name."""

    def __init__(self, place: str | Path) -> None:
        self.place = str(place)
        self.filesystem, self.root = open_place(self.place)

    def __reduce__(self) -> tuple[type["Folder"], tuple[str]]:
        return Folder, (self.place,)

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, pyarrow.fs.LocalFileSystem)

    def inside(self, name: str) -> "Folder":
        """The folder of that name in this one."""
        return Folder(child(self.place, name))

    def path(self, name: str) -> str:
        """Path of a name on the file system."""
        return f"{self.root}/{name}"

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None where there is no file."""
        info = self.filesystem.get_file_info(self.path(name))
        return info.size if info.type == pyarrow.fs.FileType.File else None

    def files(self, name: str = "", *, recursive: bool = False) -> list[pyarrow.fs.FileInfo]:
        """The files here or in a folder inside; none where there is no such folder."""
        where = self.path(name) if name else self.root
        selector = pyarrow.fs.FileSelector(where, allow_not_found=True, recursive=recursive)
        inside = self.filesystem.get_file_info(selector)
        return [info for info in inside if info.type == pyarrow.fs.FileType.File]

    def open(self, name: str) -> pa.NativeFile:
        """A file to read from any position."""
        return self.filesystem.open_input_file(self.path(name))

    def read(self, name: str) -> bytes:
        with self.filesystem.open_input_stream(self.path(name)) as file:
            return bytes(file.read())

    def open_batches(self, name: str) -> pa.ipc.RecordBatchFileReader:
        """A file of record batches: mapped from a local disk, else fetched batch by batch."""
        source = pa.memory_map(self.path(name)) if self.is_local else self.open(name)
        return pa.ipc.open_file(source)

    def write(self, name: str, content: bytes | pa.Buffer) -> None:
        with self.writing(name) as file:
            file.write(content)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[pa.NativeFile]:
        """A stream whose content takes its name when the block ends without an error."""
        temporary = self.path(f"{INCOMING}/{uuid.uuid4().hex}")
        self.filesystem.create_dir(self.path(INCOMING), recursive=True)
        with self.filesystem.open_output_stream(temporary) as file:
            yield file
        if "/" in name:
            self.filesystem.create_dir(self.path(name.rpartition("/")[0]), recursive=True)
        self.filesystem.move(temporary, self.path(name))

    def delete(self, name: str) -> None:
        """Delete a file or a folder and all in it, if it is there."""
        kind = self.filesystem.get_file_info(self.path(name)).type
        if kind == pyarrow.fs.FileType.Directory:
            self.filesystem.delete_dir(self.path(name))
        elif kind == pyarrow.fs.FileType.File:
            self.filesystem.delete_file(self.path(name))

    def delete_half_written(self, older_than: timedelta) -> int:
        """Delete what writers that were killed left in `.incoming`; returns how many files."""
        limit = datetime.now(UTC) - older_than
        stale = [info for info in self.files(INCOMING) if info.mtime and info.mtime < limit]
        for info in stale:
            self.filesystem.delete_file(info.path)
        return len(stale)


def lock(path: Path) -> AbstractContextManager[object]:
    """Keep other processes from holding `path`, a file for nothing else. The lock lasts until what
    is returned is left or dropped, or this process ends in any way. File systems without locks let
    everybody pass.

    Raises ValueError when another process holds it.
    """
    # A singleton, so that one process may hold it twice: it keeps only others out.
    held = FileLock(path, timeout=0, thread_local=False, is_singleton=True, fallback_to_soft=False)
    try:
        return held.acquire()
    except Timeout as error:
        raise ValueError(
            f"{path} is held by another process, which writes here too; let it finish, stop it, or "
            "give this run another name or folder"
        ) from error
    except (PermissionError, FileNotFoundError):
        raise
    except OSError as error:
        logger.info("%s cannot be locked (%s)", path, error)
        return contextlib.nullcontext()


def upload(folder: Path, filesystem: pyarrow.fs.FileSystem, target: str) -> None:
    """Copy a local folder's content to a path of another file system."""
    # With threads, copying to S3 can wait for itself (https://github.com/apache/arrow/issues/32372).
    pyarrow.fs.copy_files(str(folder), target, destination_filesystem=filesystem, use_threads=False)


def write_once(path: Path, write: Callable[[Path], object]) -> None:
    """Write a local file or folder next to its place and then move it there, so that what is there
    is whole. Does nothing when it is there already. For one writer at a time."""
    if path.exists():
        return
    partial = path.with_name(f"partial-{path.name}")  # keeps the suffix, which some writers read
    if partial.is_dir():
        shutil.rmtree(partial)
    partial.parent.mkdir(parents=True, exist_ok=True)
    write(partial)
    partial.rename(path)
