"""Text as it comes: the documents in a file.

    SourceFile -> Document | BadRecord ...

Reads JSON lines (plain, .gz, .zst; SlimPajama's shape), Parquet, the Arrow streams of Hugging Face
`datasets`, Arrow files, and plain text files, one document each. Documents are taken in the order
of a file, so one has a number that depends on nothing else. What cannot be read becomes a BadRecord
that names file and line; the caller decides whether that stops the run. Not here: cleaning,
deduplication, languages.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from longva_ray.data.text.files import SourceFile, open_source
from longva_ray.settings.data import TextDataConfig

ONE_DOMAIN = "all"
"""Name of the domain of every document when domains are not told apart."""


_CODECS = {".gz": "gzip", ".zst": "zstd"}


_CHUNK_BYTES = 2**16  # of a damaged file, what was decoded of the last chunk is lost


_ROWS_AT_A_TIME = 256


_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


_SHOWN_CHARACTERS = 60


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


def read_documents(file: SourceFile, config: TextDataConfig) -> Iterator[Document | BadRecord]:
    """Everything in one file, in order; damage ends the file with a BadRecord.

    Raises TextError when the bytes themselves cannot be had.
    """
    with open_source(file) as source:
        if file.kind == "text":
            yield _read_text(source, file)
            return
        records = {"jsonl": _read_jsonl, "parquet": _read_parquet, "arrow": _read_arrow}
        for where, record in records[file.kind](source, file, config):
            if isinstance(record, BadRecord):
                yield record
            else:
                yield _document(where, record, config)


_Located = tuple[str, Any]
"""Where a record stands (file and line), and the record or a BadRecord."""


def _read_jsonl(
    source: pa.NativeFile, file: SourceFile, config: TextDataConfig
) -> Iterator[_Located]:
    number = first = 0
    try:
        if file.span is not None:
            first = _seek_line(source, file.span[0])
        begins = first
        codec = _CODECS.get(PurePosixPath(file.path.lower()).suffix)
        stream = source if codec is None else pa.CompressedInputStream(source, codec)
        for number, line in enumerate(_lines(stream), start=1):
            if file.span is not None and begins >= file.span[1]:
                break
            begins += len(line) + 1
            if not line.strip():
                continue
            where = f"{file.path}, line {number}{_from(first)}"
            try:
                yield where, json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                yield where, BadRecord(f"{where}: no JSON ({error}): {_shown(line)}")
    except OSError as error:
        where = f"{file.path}, after line {number}{_from(first)}"
        yield where, BadRecord(f"{where}: the rest of the file cannot be read ({error})")


def _seek_line(source: pa.NativeFile, start: int) -> int:
    """Go to the first line that begins at byte `start` or behind it; where that is."""
    if start == 0:
        return 0
    position = start - 1  # a line that begins at `start` has its predecessor's end before it
    source.seek(position)
    while chunk := source.read(_CHUNK_BYTES):
        end = chunk.find(b"\n")
        if end >= 0:
            source.seek(position + end + 1)
            return position + end + 1
        position += len(chunk)
    return position


def _from(byte: int) -> str:
    """Where the lines of a part of a file are counted from."""
    return f" from byte {byte}" if byte else ""


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
    source: pa.NativeFile, file: SourceFile, config: TextDataConfig
) -> Iterator[_Located]:
    fields = (config.text_field, config.domain_field, config.labels_field)
    columns = [name for name in fields if name is not None]
    first_row = 0
    try:
        table = pyarrow.parquet.ParquetFile(source, page_checksum_verification=True)
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
    source: pa.NativeFile, file: SourceFile, config: TextDataConfig
) -> Iterator[_Located]:
    row = 0
    try:
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


def _read_text(source: pa.NativeFile, file: SourceFile) -> Document | BadRecord:
    content = source.read()
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
