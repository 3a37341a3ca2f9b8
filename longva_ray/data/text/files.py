"""Files of text: which ones there are.

    places (files, folders, URIs) -> SourceFile ...

Files are taken in the order of their paths. A folder that Hugging Face `datasets` saved is read in
the order that its state.json gives; the package itself is not needed. What it does not do: open a
file (`delivery`), or know what its bytes mean (`sources`).
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal

import pyarrow.fs

from longva_ray.files.digest import digest_of
from longva_ray.files.folder import Folder

Format = Literal["jsonl", "parquet", "arrow", "text"]

_FORMATS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".jsonl.zst": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".txt": "text",
    ".md": "text",
}


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
    format: Format
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

    Text files in a folder count only where it holds no data files: a README.md next to JSON lines
    is not a document. Hidden files are left out.

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
    return digest_of(text)


def _files_of(place: str) -> list[SourceFile]:
    folder = Folder(place)
    info = folder.filesystem.get_file_info(folder.root)
    if info.type == pyarrow.fs.FileType.NotFound:
        raise TextError(f"{place} does not exist")
    if info.type == pyarrow.fs.FileType.File:
        form = _format(info.path)
        if form is None:
            raise TextError(
                f"{place} is of no known kind; known are {', '.join(_FORMATS)}, and folders of them"
            )
        return [_source_file(folder, info, form)]
    if info.type != pyarrow.fs.FileType.Directory:
        raise TextError(f"{place} is a device or a pipe; want a file or a folder")
    infos = sorted(folder.files(recursive=True), key=lambda info: info.path)
    visible = [info for info in infos if not _is_hidden(info.path, folder.root)]
    saved = _saved_by_datasets(folder, {info.path for info in visible})
    if saved is not None:
        visible = [info for name in saved for info in visible if info.path == name]
    found = [(info, form) for info in visible if (form := _format(info.path)) is not None]
    data = [(info, form) for info, form in found if form != "text"]
    if not found:
        raise TextError(f"{place} holds no files of a known kind ({', '.join(_FORMATS)})")
    return [_source_file(folder, info, form) for info, form in data or found]


def _source_file(folder: Folder, info: pyarrow.fs.FileInfo, form: Format) -> SourceFile:
    parent = PurePosixPath(folder.root).parent
    return SourceFile(
        place=folder.place,
        path=info.path,
        name=str(PurePosixPath(info.path).relative_to(parent)),
        format=form,
        num_bytes=info.size,
        mtime_ns=info.mtime_ns or 0,
    )


def _saved_by_datasets(folder: Folder, paths: set[str]) -> list[str] | None:
    """Data files of a folder that `Dataset.save_to_disk` wrote, in order; None for other
    folders."""
    root = folder.root
    if folder.path("dataset_dict.json") in paths:
        splits = _read_json(folder, "dataset_dict.json").get("splits", [])
        raise TextError(
            f"{root} is a Hugging Face DatasetDict; name one of its splits: "
            f"{', '.join(folder.path(split) for split in splits)}"
        )
    if folder.path("state.json") not in paths:
        return None
    state = _read_json(folder, "state.json")
    if state.get("_indices_files"):
        raise TextError(
            f"{root} was saved with an indices mapping (after select, shuffle or filter); call "
            "flatten_indices() on the dataset and save it again"
        )
    files = [folder.path(entry["filename"]) for entry in state.get("_data_files", [])]
    absent = [path for path in files if path not in paths]
    if absent:
        raise TextError(f"{absent[0]} is missing although {root}/state.json lists it")
    return files


def _read_json(folder: Folder, name: str) -> dict[str, Any]:
    try:
        return json.loads(folder.read(name))
    except ValueError as error:
        raise TextError(
            f"{folder.path(name)} is not JSON ({error}); save the dataset again"
        ) from error


def _format(path: str) -> Format | None:
    suffixes = PurePosixPath(path.lower()).suffixes
    return _FORMATS.get("".join(suffixes[-2:])) or _FORMATS.get("".join(suffixes[-1:]))


def _is_hidden(path: str, root: str) -> bool:
    parts = PurePosixPath(path).relative_to(root).parts
    return any(part.startswith((".", "_")) for part in parts)
