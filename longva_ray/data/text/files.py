"""Files of text: which ones there are, and their bytes.

    places (files, folders, URIs) -> SourceFile ... -> bytes

Files are taken in the order of their paths. A folder that Hugging Face `datasets` saved is read in
the order that its state.json gives; the package itself is not needed. What the bytes mean is
`text_sources`' matter.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.fs

from longva_ray.files.places import open_place

Kind = Literal["jsonl", "parquet", "arrow", "text"]


_KINDS: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".jsonl.zst": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".txt": "text",
    ".md": "text",
}


_READ_BYTES = 2**20


class TextError(ValueError):
    """Text cannot be read: where, and why."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """One file to read; plain values, so it travels as JSON."""

    place: str
    """What the user named: this file or a folder above it; says which file system."""
    path: str
    """Path on that file system."""
    name: str
    """Path below `place`'s parent folder: what reports call the file."""
    kind: Kind
    num_bytes: int
    mtime_ns: int
    span: tuple[int, int] | None = None
    """Of a part of a file, the bytes [start, stop) in which its records begin."""

    def parts(self, num_bytes: int) -> list["SourceFile"]:
        """The file in parts of at most so many bytes, if its records can be found from any byte,
        which is so for plain JSON lines; else itself."""
        if self.num_bytes <= num_bytes or not self.path.lower().endswith(".jsonl"):
            return [self]
        starts = range(0, self.num_bytes, num_bytes)
        return [dataclasses.replace(self, span=(start, start + num_bytes)) for start in starts]


def find_files(places: Sequence[str]) -> list[SourceFile]:
    """Files of every place, in the order of the places and sorted by path inside each.

    Text files in a folder count only where it holds no data files: a README.md beside JSON lines is
    not a document. Hidden files are left out.

    Raises TextError for a place that does not exist or holds nothing that can be read.
    """
    if not places:
        raise TextError("no text was given; name at least one file or folder")
    files = [file for place in places for file in _files_of(place)]
    seen: set[str] = set()
    for file in files:
        if file.path in seen:
            raise TextError(f"{file.path} is named twice; its documents would count double")
        seen.add(file.path)
    return files


def source_fingerprint(files: Iterable[SourceFile]) -> str:
    """32 hex digits over names, sizes and times: notices a changed input without reading it."""
    text = json.dumps([[file.name, file.num_bytes, file.mtime_ns] for file in files])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _files_of(place: str) -> list[SourceFile]:
    filesystem, path = open_place(place)
    info = filesystem.get_file_info(path)
    if info.type == pyarrow.fs.FileType.NotFound:
        raise TextError(f"{place} does not exist")
    if info.type == pyarrow.fs.FileType.File:
        kind = _kind(path)
        if kind is None:
            raise TextError(
                f"{place} is of no known kind; known are {', '.join(_KINDS)}, and folders of them"
            )
        return [_source_file(place, path, info, kind)]
    selector = pyarrow.fs.FileSelector(path, recursive=True)
    infos = sorted(filesystem.get_file_info(selector), key=lambda info: info.path)
    visible = [
        info
        for info in infos
        if info.type == pyarrow.fs.FileType.File and not _is_hidden(info.path, path)
    ]
    saved = _saved_by_datasets(filesystem, path, {info.path for info in visible})
    if saved is not None:
        visible = [info for name in saved for info in visible if info.path == name]
    found = [(info, kind) for info in visible if (kind := _kind(info.path)) is not None]
    data = [(info, kind) for info, kind in found if kind != "text"]
    if not found:
        raise TextError(f"{place} holds no files of a known kind ({', '.join(_KINDS)})")
    return [_source_file(place, path, info, kind) for info, kind in data or found]


def _source_file(place: str, root: str, info: pyarrow.fs.FileInfo, kind: Kind) -> SourceFile:
    parent = PurePosixPath(root).parent
    return SourceFile(
        place=place,
        path=info.path,
        name=str(PurePosixPath(info.path).relative_to(parent)),
        kind=kind,
        num_bytes=info.size,
        mtime_ns=info.mtime_ns or 0,
    )


def _saved_by_datasets(
    filesystem: pyarrow.fs.FileSystem, folder: str, names: set[str]
) -> list[str] | None:
    """Data files of a folder that `Dataset.save_to_disk` wrote, in order; None for other
    folders."""
    if f"{folder}/dataset_dict.json" in names:
        splits = _read_json(filesystem, f"{folder}/dataset_dict.json").get("splits", [])
        raise TextError(
            f"{folder} is a Hugging Face DatasetDict; name one of its splits: "
            f"{', '.join(f'{folder}/{split}' for split in splits)}"
        )
    if f"{folder}/state.json" not in names:
        return None
    state = _read_json(filesystem, f"{folder}/state.json")
    if state.get("_indices_files"):
        raise TextError(
            f"{folder} was saved with an indices mapping (after select, shuffle or filter); call "
            "flatten_indices() on the dataset and save it again"
        )
    files = [f"{folder}/{entry['filename']}" for entry in state.get("_data_files", [])]
    absent = [name for name in files if name not in names]
    if absent:
        raise TextError(f"{absent[0]} is missing although {folder}/state.json lists it")
    return files


def _read_json(filesystem: pyarrow.fs.FileSystem, path: str) -> dict[str, Any]:
    with filesystem.open_input_stream(path) as file:
        text = file.read()
    try:
        return json.loads(text)
    except ValueError as error:
        raise TextError(f"{path} is not JSON ({error}); save the dataset again") from error


def _kind(path: str) -> Kind | None:
    suffixes = PurePosixPath(path.lower()).suffixes
    return _KINDS.get("".join(suffixes[-2:])) or _KINDS.get("".join(suffixes[-1:]))


def _is_hidden(path: str, root: str) -> bool:
    parts = PurePosixPath(path).relative_to(root).parts
    return any(part.startswith((".", "_")) for part in parts)


@contextlib.contextmanager
def open_source(file: SourceFile) -> Iterator[pa.NativeFile]:
    """The bytes of a file.

    Raises TextError, now or while they are read, when they cannot be had: a network that fails must
    not look like a shorter file.
    """
    filesystem, _ = open_place(file.place)
    with _delivering(file.path):
        raw = filesystem.open_input_file(file.path)
    # An object store is asked for this much at a time, however little a decoder reads.
    delivery = io.BufferedReader(_Delivery(raw, file.path), buffer_size=_READ_BYTES)
    with raw, pa.PythonFile(delivery, mode="r") as source:
        yield source


@contextlib.contextmanager
def _delivering(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TextError(
            f"{path} cannot be fetched ({error}); run again, what is finished is kept"
        ) from error


class _Delivery(io.RawIOBase):
    """The bytes of a file, whose failure to arrive is another error than that of a decoder which
    finds no sense in them: Arrow has OSError for both."""

    def __init__(self, raw: pa.NativeFile, path: str) -> None:
        self._raw = raw
        self._path = path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _delivering(self._path):
            content = self._raw.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, position: int, whence: int = 0) -> int:
        return int(self._raw.seek(position, whence))

    def tell(self) -> int:
        return int(self._raw.tell())
