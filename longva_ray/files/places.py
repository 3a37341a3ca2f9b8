"""Paths and URIs: one way to reach local disks, object stores, and everything that fsspec knows."""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlparse

import pyarrow as pa
import pyarrow.fs

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
"""What Hugging Face's hub may call a repository."""

_MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")

_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""What Ray sets in the driver of a submitted job."""


class NoFileError(OSError, ValueError):
    """What was named is no file that ends: a folder, a device or a pipe."""


def expanded(path: str | Path) -> Path:
    """A path whose leading `~` or `~user` is that home; a name that only begins with a tilde stays
    as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # there is no such user
        return Path(path)


def is_uri(place: str) -> bool:
    """Whether a place is a URI such as `s3://bucket/key`, and not a path."""
    return "://" in place


def file_name(place: str) -> str:
    """Name of a file without its folder, and without the query of a URI."""
    return Path(urlparse(place).path if is_uri(place) else place).name


def child(folder: str, name: str) -> str:
    """The place `name` in a folder; the query of a URI stays at the end."""
    path, mark, query = folder.partition("?") if is_uri(folder) else (folder, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def parent(place: str) -> str:
    """The folder that a place is in; the query of a URI stays at the end."""
    path, mark, query = place.partition("?") if is_uri(place) else (place, "", "")
    return f"{path.rpartition('/')[0] or '/'}{mark}{query}"


def open_place(place: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """File system and path of a place. pyarrow's file systems come first; fsspec's serve every
    other URI."""
    if not is_uri(place):
        return pyarrow.fs.LocalFileSystem(), str(expanded(place).absolute())
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(place)
    except pa.ArrowInvalid:
        import fsspec

        handler, path = fsspec.core.url_to_fs(place)
        filesystem = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(handler))
    return filesystem, path.rstrip("/")


def check_file(path: str | Path) -> None:
    """Raises NoFileError for a path of what is there and no file: a device or a pipe would be read
    without end. Of what is missing nothing is said."""
    path = Path(path)
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device or a pipe"
        raise NoFileError(f"{path} is {kind}; want a file")


def read_file(place: str) -> bytes:
    """The content of a small file. Raises NoFileError for what is none."""
    filesystem, path = open_place(place)
    if not is_uri(place):
        check_file(path)
    with filesystem.open_input_stream(path) as file:
        return bytes(file.read())


@contextlib.contextmanager
def local_file(place: str) -> Iterator[Path]:
    """A path for as long as it is needed: the file itself, or a temporary copy of what a URI names.

    Raises OSError when a URI cannot be fetched, and NoFileError.
    """
    if not is_uri(place):
        check_file(place)
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="longva-") as folder:
        copy = Path(folder) / file_name(place)
        try:
            filesystem, path = open_place(place)
            is_file = filesystem.get_file_info(path).type == pyarrow.fs.FileType.File
            if is_file:
                pyarrow.fs.copy_files(
                    path,
                    str(copy),
                    source_filesystem=filesystem,
                    destination_filesystem=pyarrow.fs.LocalFileSystem(),
                )
        # Clients of fsspec raise whatever they like: aiohttp's errors are no OSError.
        except Exception as error:
            raise OSError(f"{place} cannot be fetched: {error!r}") from error
        if not is_file:
            raise OSError(f"{place} is no file")
        yield copy


def absolute(place: str) -> str:
    """A path as every worker sees it; URLs stay as they are.

    Workers run in other folders, so relative paths are resolved here, in the driver. The driver of
    a submitted job runs in a temporary copy of the working directory, which Ray deletes: output
    under a relative path would be lost.

    Raises ValueError for a relative path in a submitted job.
    """
    if is_uri(place):
        return place
    path = expanded(place)
    if not path.is_absolute() and _has_working_dir():
        raise ValueError(
            f"{place!r} is relative, but this is a submitted job, whose folder is a temporary "
            "copy; give an absolute path or a URI that every node can reach"
        )
    return str(path.absolute())


def local_path(place: str) -> Path:
    """Where a report goes: an absolute path of this machine.

    Raises ValueError for a URI, or for a relative path in a submitted job.
    """
    if is_uri(place):
        raise ValueError(
            f"{place!r} is a URI, but reports and figures are written to a disk; give a path, and "
            "copy the results from there"
        )
    return Path(absolute(place))


def model_place(model: str) -> str:
    """A checkpoint, or the folder of a tokenizer, as every worker finds it: the absolute path of
    what exists here, and a Hugging Face id unchanged.

    Raises ValueError for what is neither, and for a folder that holds neither.
    """
    path = expanded(model)
    if not path.exists():
        if not _HUB_NAME.fullmatch(model) or path.suffix == ".gguf":
            raise ValueError(f"no model {model!r} here; give a folder that exists, or a hub's name")
        return model
    if path.is_dir() and not any((path / name).exists() for name in _MODEL_FILES):
        raise ValueError(f"{path} has no config.json; the result of a run is in its folder final")
    return absolute(model)


def check_there(places: Iterable[str]) -> None:
    """Raises ValueError for a path at which there is nothing; of URIs nothing is asked."""
    for place in places:
        if not is_uri(place) and not Path(place).exists():
            raise ValueError(f"{place} does not exist; give a file or folder that does, or a URI")


def is_job() -> bool:
    """Whether this process was started by `ray job submit`."""
    return _JOB_CONFIG in os.environ


def _has_working_dir() -> bool:
    """Whether this is a submitted job that runs in a temporary copy of a folder."""
    config = json.loads(os.environ.get(_JOB_CONFIG, "{}"))
    return bool(config.get("runtime_env", {}).get("working_dir"))
