"""Text as it comes: which files there are, and the documents in them.

    places (files, folders, URIs) -> SourceFile ... -> Document | BadRecord ...

Reads JSON lines (plain, .gz, .zst; SlimPajama's shape), Parquet, the folders that Hugging Face
`datasets` saves (Arrow streams; the package itself is not needed), Arrow files, and plain text
files, one document each. Files are taken in the order of their paths and documents in the order of
a file, so a document has a number that depends on nothing else. What cannot be read becomes a
BadRecord that names file and line; the caller decides whether that stops the run. Not here:
cleaning, deduplication, languages.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet

from longva_ray.config import TextDataConfig
from longva_ray.filesystem import resolve

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
ONE_DOMAIN = "all"
"""Name of the domain of every document when domains are not told apart."""
_CHUNK_BYTES = 2**20
_ROWS_AT_A_TIME = 256
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_SHOWN_CHARACTERS = 60


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


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """One text and the domain it counts for."""

    text: str
    domain: str
    labels: tuple[tuple[int, int], ...] | None = None
    """Character spans [start, stop) that are trained on; None is everything."""


@dataclasses.dataclass(frozen=True, slots=True)
class BadRecord:
    """A record, or the rest of a file, that cannot be read."""

    message: str


# Finding ------------------------------------------------------------------------------------------


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
    filesystem, path = resolve(place)
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


# Reading ------------------------------------------------------------------------------------------


def read_documents(file: SourceFile, config: TextDataConfig) -> Iterator[Document | BadRecord]:
    """Everything in one file, in order; damage ends the file with a BadRecord."""
    filesystem, _ = resolve(file.place)
    records = {"jsonl": _read_jsonl, "parquet": _read_parquet, "arrow": _read_arrow}
    if file.kind == "text":
        yield _read_text(filesystem, file)
        return
    for where, record in records[file.kind](filesystem, file, config):
        if isinstance(record, BadRecord):
            yield record
        else:
            yield _document(where, record, config)


_Located = tuple[str, Any]
"""Where a record stands (file and line), and the record or a BadRecord."""


def _read_jsonl(
    filesystem: pyarrow.fs.FileSystem, file: SourceFile, config: TextDataConfig
) -> Iterator[_Located]:
    number = 0
    try:
        with filesystem.open_input_stream(file.path, compression="detect") as stream:
            for number, line in enumerate(_lines(stream), start=1):
                if not line.strip():
                    continue
                where = f"{file.path}, line {number}"
                try:
                    yield where, json.loads(line.decode("utf-8-sig"))
                except (ValueError, RecursionError) as error:
                    yield where, BadRecord(f"{where}: no JSON ({error}): {_shown(line)}")
    except OSError as error:
        where = f"{file.path}, after line {number}"
        yield where, BadRecord(f"{where}: the rest of the file cannot be read ({error})")


def _lines(stream: pa.NativeFile) -> Iterator[bytes]:
    tail: list[bytes] = []
    while chunk := stream.read(_CHUNK_BYTES):
        *lines, last = chunk.split(b"\n")
        for line in lines:
            yield b"".join([*tail, line])
            tail = []
        tail.append(last)
    if any(tail):
        yield b"".join(tail)


def _read_parquet(
    filesystem: pyarrow.fs.FileSystem, file: SourceFile, config: TextDataConfig
) -> Iterator[_Located]:
    fields = (config.text_field, config.domain_field, config.labels_field)
    columns = [name for name in fields if name is not None]
    first_row = 0
    try:
        table = pyarrow.parquet.ParquetFile(
            filesystem.open_input_file(file.path), page_checksum_verification=True
        )
    except (pa.ArrowException, OSError) as error:
        yield file.path, BadRecord(f"{file.path}: no readable Parquet file ({error})")
        return
    have = table.schema_arrow.names
    missing = [name for name in columns if not {name, name.partition(".")[0]} & set(have)]
    if missing:
        yield (
            file.path,
            BadRecord(
                f"{file.path}: no column {', '.join(missing)}; the file has {', '.join(have)}; "
                "text.text_field, text.domain_field and text.labels_field name others"
            ),
        )
        return
    with table:
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            where = f"{file.path}, rows {first_row + 1} to {first_row + rows}"
            try:
                content = table.read_row_group(group, columns=columns)
            except (pa.ArrowException, OSError) as error:
                yield where, BadRecord(f"{where}: cannot be read ({error})")
            else:
                batches = content.to_batches(max_chunksize=_ROWS_AT_A_TIME)
                yield from _rows(file, batches, first_row)
            first_row += rows


def _read_arrow(
    filesystem: pyarrow.fs.FileSystem, file: SourceFile, config: TextDataConfig
) -> Iterator[_Located]:
    row = 0
    try:
        with filesystem.open_input_file(file.path) as source:
            is_file = source.read_at(6, 0) == b"ARROW1"
            # A stream that was cut between two messages looks like one that ended.
            whole = is_file or source.read_at(8, max(file.num_bytes - 8, 0)) == _END_OF_STREAM
            source.seek(0)
            for batch in _arrow_batches(source, is_file):
                yield from _rows(file, [batch], row)
                row += batch.num_rows
            if not whole:
                raise OSError("the stream does not end where it should")
    except (pa.ArrowException, OSError) as error:
        where = f"{file.path}, after row {row}"
        yield where, BadRecord(f"{where}: the rest of the file cannot be read ({error})")


def _arrow_batches(source: pa.NativeFile, is_file: bool) -> Iterator[pa.RecordBatch]:
    if is_file:
        reader = pa.ipc.open_file(source)
        yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
    else:
        yield from pa.ipc.open_stream(source)


def _rows(file: SourceFile, batches: Iterable[pa.RecordBatch], row: int) -> Iterator[_Located]:
    for batch in batches:
        for start in range(0, batch.num_rows, _ROWS_AT_A_TIME):
            for record in batch.slice(start, _ROWS_AT_A_TIME).to_pylist():
                row += 1
                yield f"{file.path}, row {row}", record


def _read_text(filesystem: pyarrow.fs.FileSystem, file: SourceFile) -> Document | BadRecord:
    try:
        with filesystem.open_input_stream(file.path, compression=None) as stream:
            content = stream.read()
    except OSError as error:
        return BadRecord(f"{file.path}: cannot be read ({error})")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        return BadRecord(f"{file.path}, line {line}: not UTF-8 ({error.reason})")
    # place/name.txt counts for the folder itself, place/domain/.../name.txt for the subfolder.
    parts = PurePosixPath(file.name).parts
    folder = PurePosixPath(file.path).parent.name
    return Document(text, parts[1] if len(parts) > 2 else folder)


def _document(where: str, record: Any, config: TextDataConfig) -> Document | BadRecord:
    if not isinstance(record, dict):
        return BadRecord(f"{where}: a record must be an object, got {_shown(repr(record))}")
    text = _field(record, config.text_field)
    if not isinstance(text, str):
        return BadRecord(
            f"{where}: no text in field {config.text_field!r}; the record has "
            f"{', '.join(map(str, record))}; text.text_field names another one"
        )
    if not text.isascii() and not _is_unicode(text):
        return BadRecord(f"{where}: the text holds half of a surrogate pair, which is no character")
    labels = None
    if config.labels_field is not None:
        labels = _spans(_field(record, config.labels_field), len(text))
        if labels is None:
            return BadRecord(
                f"{where}: field {config.labels_field!r} must hold pairs of characters [start, "
                f"stop) within the {len(text)} of the text; text.labels_field names another one"
            )
    if config.domain_field is None:
        return Document(text, ONE_DOMAIN, labels)
    domain = _field(record, config.domain_field)
    if not isinstance(domain, str | int) or not _is_unicode(str(domain)):
        return BadRecord(
            f"{where}: no domain in field {config.domain_field!r}; the record has "
            f"{', '.join(map(str, record))}; text.domain_field names another one, or None for a "
            "single domain"
        )
    return Document(text, str(domain), labels)


def _spans(value: Any, num_characters: int) -> tuple[tuple[int, int], ...] | None:
    """Pairs of integers that lie within a text, or None."""
    if not isinstance(value, list):
        return None
    for span in value:
        is_pair = isinstance(span, list) and [type(end) for end in span] == [int, int]
        if not is_pair or not 0 <= span[0] <= span[1] <= num_characters:
            return None
    return tuple((start, stop) for start, stop in value)


def _field(record: dict[str, Any], name: str) -> Any:
    if name in record:
        return record[name]
    outer, _, inner = name.partition(".")
    nested = record.get(outer)
    return _field(nested, inner) if inner and isinstance(nested, dict) else None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(line: bytes | str) -> str:
    text = line.decode(errors="replace") if isinstance(line, bytes) else line
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
