"""A folder on a disk or an object store: write a file whole or not at all, one writer at a time."""

import fcntl
import logging
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.fs

logger = logging.getLogger(__name__)


def lock(path: Path) -> IO[bytes]:
    """Keep other processes from holding `path`, a file for nothing else, until what is returned is
    closed or this process ends, however that happens. File systems without locks let everybody
    pass.

    Raises ValueError when another process holds it.
    """
    file = path.open("ab")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.close()
        raise ValueError(
            f"{path} is held by another process, which writes here too; let it finish, stop it, or "
            "give this run another name or folder"
        ) from error
    except OSError as error:
        logger.info("%s cannot be locked (%s)", path, error)
    return file


def upload(folder: Path, filesystem: pyarrow.fs.FileSystem, target: str) -> None:
    """Copy a local folder's content to a path of another file system."""
    # With threads, copying to S3 can wait for itself (https://github.com/apache/arrow/issues/32372).
    pyarrow.fs.copy_files(str(folder), target, destination_filesystem=filesystem, use_threads=False)


def write_once(path: Path, write: Callable[[Path], object]) -> None:
    """Let a local file or folder be written beside its place and then moved there, so that what is
    there is whole; nothing is done when it is there already. For one writer at a time."""
    if path.exists():
        return
    partial = path.with_name(f"partial-{path.name}")
    if partial.is_dir():
        shutil.rmtree(partial)
    partial.parent.mkdir(parents=True, exist_ok=True)
    write(partial)
    partial.rename(path)


INCOMING = ".incoming"
"""Folder of half-written files, on the same file system as the shards so that a rename is
atomic."""


def part_name(part: int) -> str:
    return f"part-{part:05d}.arrow"


def write_atomically(
    filesystem: pyarrow.fs.FileSystem, root: str, name: str, content: bytes | pa.Buffer
) -> None:
    """Write `root/name` completely or not at all: under a temporary name first, then renamed."""
    temporary = f"{root}/{INCOMING}/{uuid.uuid4().hex}"
    filesystem.create_dir(f"{root}/{INCOMING}", recursive=True)
    with filesystem.open_output_stream(temporary) as file:
        file.write(content)
    filesystem.move(temporary, f"{root}/{name}")


def open_ipc(filesystem: pyarrow.fs.FileSystem, path: str) -> pa.ipc.RecordBatchFileReader:
    """A file of record batches: mapped from a local disk, else fetched batch by batch."""
    is_local = isinstance(filesystem, pyarrow.fs.LocalFileSystem)
    return pa.ipc.open_file(pa.memory_map(path) if is_local else filesystem.open_input_file(path))
