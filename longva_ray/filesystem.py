"""Paths and URIs: one way to reach local disks, object stores, and everything that fsspec knows."""

import contextlib
import fcntl
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlparse

import pyarrow as pa
import pyarrow.fs

logger = logging.getLogger(__name__)


def is_uri(place: str) -> bool:
    """Whether a place is a URI such as `s3://bucket/key`, and not a path."""
    return "://" in place


def file_name(place: str) -> str:
    """Name of a file without its folder, and without the query of a URI."""
    return Path(urlparse(place).path if is_uri(place) else place).name


def child(folder: str, name: str) -> str:
    """The place `name` in a folder; the query of a URI stays behind the path."""
    path, mark, query = folder.partition("?") if is_uri(folder) else (folder, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def resolve(place: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """File system and path of a place; pyarrow's own file systems first, fsspec's for every other
    URI."""
    if not is_uri(place):
        return pyarrow.fs.LocalFileSystem(), str(Path(place).expanduser().absolute())
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(place)
    except pa.ArrowInvalid:
        import fsspec

        handler, path = fsspec.core.url_to_fs(place)
        filesystem = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(handler))
    return filesystem, path.rstrip("/")


def list_folder(place: str) -> list[str] | None:
    """The files of a folder by name, as places of the same kind; None for what is no folder, or
    cannot be reached. Folders inside are left out."""
    try:
        filesystem, path = resolve(place)
        if filesystem.get_file_info(path).type != pyarrow.fs.FileType.Directory:
            return None
        inside = filesystem.get_file_info(pyarrow.fs.FileSelector(path))
    except (OSError, ValueError, ImportError):
        return None
    names = sorted(
        Path(entry.path).name for entry in inside if entry.type == pyarrow.fs.FileType.File
    )
    if not is_uri(place):
        return [child(path, name) for name in names]
    if not isinstance(filesystem, pyarrow.fs.PyFileSystem):  # pyarrow decodes its URIs, fsspec not
        names = [quote(name) for name in names]
    return [child(place, name) for name in names]


@contextlib.contextmanager
def local_file(place: str) -> Iterator[Path]:
    """A path for as long as it is needed: the file itself, or a temporary copy of what a URI names.

    Raises OSError when a URI cannot be fetched.
    """
    if not is_uri(place):
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="longva-") as folder:
        copy = Path(folder) / file_name(place)
        try:
            filesystem, path = resolve(place)
            is_file = filesystem.get_file_info(path).type == pyarrow.fs.FileType.File
            if is_file:
                pyarrow.fs.copy_files(
                    path,
                    str(copy),
                    source_filesystem=filesystem,
                    destination_filesystem=pyarrow.fs.LocalFileSystem(),
                )
        # Every client of fsspec has errors of its own: aiohttp's are no OSError.
        except Exception as error:
            raise OSError(f"{place} cannot be fetched: {error!r}") from error
        if not is_file:
            raise OSError(f"{place} is no file")
        yield copy


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
