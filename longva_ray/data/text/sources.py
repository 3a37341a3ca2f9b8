"""Text as it comes: the documents in a file.

    SourceFile -> SourceDocument | BadRecord ...

Reads JSON lines (plain, .gz, .zst; SlimPajama's shape), Parquet, the Arrow streams of Hugging Face
`datasets`, Arrow files, and plain text files, one document each. Documents are taken in the order
of a file, so the number of one depends on nothing else. What cannot be read becomes a BadRecord
that names file and line; the caller decides whether that stops the run. What it does not do: clean,
deduplicate, or tell languages apart.
"""

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet

from longva_ray.data.text.delivery import open_source
from longva_ray.data.text.documents import BadRecord, SourceDocument, document_of, shown
from longva_ray.data.text.files import SourceFile
from longva_ray.files.tables import each_once, named_twice
from longva_ray.settings.data import TextDataConfig

_CODECS = {".gz": "gzip", ".zst": "zstd"}
_CHUNK_BYTES = 2**16  # of a damaged file, what was decoded of the last chunk is lost
_ROWS_AT_A_TIME = 256
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


def read_documents(
    file: SourceFile, config: TextDataConfig
) -> Iterator[SourceDocument | BadRecord]:
    """Everything in one file, in order; damage ends the file with a BadRecord.

    Raises TextError when the bytes themselves cannot be had.
    """
    with open_source(file) as source:
        if file.format == "text":
            yield _read_text(source, file)
            return
        records = {"jsonl": _read_jsonl, "parquet": _read_parquet, "arrow": _read_arrow}
        for where, record in records[file.format](source, file, config):
            if isinstance(record, BadRecord):
                yield record
            else:
                yield document_of(where, record, config)


_Located = tuple[str, Any]
"""Where a record stands (file and line), and the record or a BadRecord."""


def _read_jsonl(source: BinaryIO, file: SourceFile, config: TextDataConfig) -> Iterator[_Located]:
    number = first = 0
    hook = each_once({part for name in _fields(config) for part in name.split(".")})
    try:
        if file.span is not None:
            first = _seek_line(source, file.span[0])
        begins = first
        codec = _CODECS.get(PurePosixPath(file.path.lower()).suffix)
        lines = source if codec is None else _decompressed(source, codec)
        for number, line in enumerate(lines, start=1):
            if file.span is not None and begins >= file.span[1]:
                break
            begins += len(line)
            line = line.removesuffix(b"\n")
            if not line.strip():
                continue
            where = f"{file.path}, line {number}{_from(first)}"
            try:
                yield where, json.loads(line.decode("utf-8-sig"), object_pairs_hook=hook)
            except (ValueError, RecursionError) as error:
                yield where, BadRecord(f"{where}: no JSON ({error}): {shown(line)}")
    except OSError as error:
        where = f"{file.path}, after line {number}{_from(first)}"
        yield where, BadRecord(f"{where}: the rest of the file cannot be read ({error})")


def _decompressed(source: BinaryIO, codec: str) -> BinaryIO:
    # Arrow's streams are what io calls raw, but do not say so.
    raw: Any = pa.CompressedInputStream(source, codec)
    return io.BufferedReader(raw, _CHUNK_BYTES)


def _seek_line(source: BinaryIO, start: int) -> int:
    """Go to the first line that begins at byte `start` or after it, and say where that is."""
    if start > 0:
        source.seek(start - 1)  # a line that begins at `start` has its predecessor's end before it
        source.readline()
    return source.tell()


def _from(byte: int) -> str:
    """Where the lines of a part of a file are counted from."""
    return f" from byte {byte}" if byte else ""


def _read_parquet(source: BinaryIO, file: SourceFile, config: TextDataConfig) -> Iterator[_Located]:
    first_row = 0
    try:
        table = pyarrow.parquet.ParquetFile(source, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        yield file.path, BadRecord(f"{file.path}: no readable Parquet file ({error})")
        return
    wrong = _wrong_columns(file, table.schema_arrow, config)
    if wrong is not None:
        yield file.path, wrong
        return
    columns = _fields(config)
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


def _fields(config: TextDataConfig) -> list[str]:
    """What is read of a record; a dot leads into a field of a field."""
    fields = (config.text_field, config.domain_field, config.labels_field)
    return [name for name in fields if name is not None]


def _columns(schema: pa.Schema, config: TextDataConfig) -> list[str]:
    """The columns that hold what is read."""
    names = {part for name in _fields(config) for part in (name, name.partition(".")[0])}
    return [name for name in schema.names if name in names]


def _wrong_columns(file: SourceFile, schema: pa.Schema, config: TextDataConfig) -> BadRecord | None:
    """What is wrong if a column is missing, or shares its name with another."""
    have = schema.names
    missing = [name for name in _fields(config) if not {name, name.partition(".")[0]} & set(have)]
    if missing:
        return BadRecord(
            f"{file.path}: no column {', '.join(missing)}; the file has {', '.join(have)}; "
            "--text.text-field, --text.domain-field and --text.labels-field name others"
        )
    twice = named_twice(schema, _columns(schema, config))
    return BadRecord(f"{file.path}: {twice}") if twice else None


def _read_arrow(source: BinaryIO, file: SourceFile, config: TextDataConfig) -> Iterator[_Located]:
    row = 0
    try:
        is_file = source.read(6) == b"ARROW1"
        source.seek(max(file.num_bytes - 8, 0))
        # A stream that was cut between two messages looks like one that ended.
        whole = is_file or source.read(8) == _END_OF_STREAM
        source.seek(0)
        for batch in _arrow_batches(source, is_file):
            wrong = _wrong_columns(file, batch.schema, config)
            if wrong is not None:
                yield file.path, wrong
                return
            yield from _rows(file, [batch.select(_columns(batch.schema, config))], row)
            row += batch.num_rows
        if not whole:
            raise OSError("the stream does not end where it should")
    except (pa.ArrowException, OSError) as error:
        where = f"{file.path}, after row {row}"
        yield where, BadRecord(f"{where}: the rest of the file cannot be read ({error})")


def _arrow_batches(source: BinaryIO, is_file: bool) -> Iterator[pa.RecordBatch]:
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


def _read_text(source: BinaryIO, file: SourceFile) -> SourceDocument | BadRecord:
    content = source.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        return BadRecord(f"{file.path}, line {line}: not UTF-8 ({error.reason})")
    # place/name.txt counts for the folder itself, place/domain/.../name.txt for the subfolder.
    parts = PurePosixPath(file.name).parts
    folder = PurePosixPath(file.path).parent.name
    return SourceDocument(text, parts[1] if len(parts) > 2 else folder)
