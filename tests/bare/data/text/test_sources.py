"""Reading text: every kind of file, whole and broken."""

import gzip
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from longva_ray.data.text import delivery
from longva_ray.data.text.documents import BadRecord, SourceDocument
from longva_ray.data.text.files import TextError, find_files, source_fingerprint
from longva_ray.data.text.sources import read_documents
from longva_ray.settings.data import TextDataConfig

CONFIG = TextDataConfig()

RECORDS = [
    {"text": f"text {n} \u00fc\u4e2d\U0001f600", "meta": {"redpajama_set_name": "abc"[n % 3]}}
    for n in range(1000)
]

DOCUMENTS = [SourceDocument(each["text"], each["meta"]["redpajama_set_name"]) for each in RECORDS]

JSONL = "".join(json.dumps(each) + "\n" for each in RECORDS).encode()

NOISE = "".join(
    json.dumps({"text": f"{n * 7919 % 10007:x}" * 40, "d": 1}) + "\n" for n in range(99999)
)
"""Enough for several chunks even when compressed."""


def read(place: Path, config: TextDataConfig = CONFIG) -> list[SourceDocument | BadRecord]:
    return [each for file in find_files([str(place)]) for each in read_documents(file, config)]


def zstd(content: bytes) -> bytes:
    return pa.Codec("zstd").compress(content, asbytes=True)


def write_stream(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=300)


def save_dataset(folder: Path, records: list[dict], files: int = 2) -> None:
    """What `datasets.Dataset.save_to_disk` leaves behind."""
    folder.mkdir(parents=True)
    names = [f"data-{n:05d}-of-{files:05d}.arrow" for n in range(files)]
    size = -(-len(records) // files)
    for n, name in enumerate(names):
        write_stream(folder / name, pa.Table.from_pylist(records[n * size : (n + 1) * size]))
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def test_json_lines_plain_and_compressed(tmp_path: Path) -> None:
    half = len(JSONL.split(b"\n")[0]) + 1
    contents = {
        "a.jsonl": JSONL,
        "a.jsonl.gz": gzip.compress(JSONL),
        "a.jsonl.zst": zstd(JSONL),
        "parts.jsonl.zst": zstd(JSONL[:half]) + zstd(JSONL[half:]),
        "members.jsonl.gz": gzip.compress(JSONL[:half]) + gzip.compress(JSONL[half:]),
        "no_newline.jsonl": JSONL.rstrip(b"\n"),
        "blank_lines.jsonl": b"\xef\xbb\xbf" + JSONL.replace(b"\n", b"\r\n\r\n"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert read(tmp_path / name) == DOCUMENTS, name


def test_parquet_and_arrow(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"id": n, **each} for n, each in enumerate(RECORDS)])
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=300)
    write_stream(tmp_path / "stream.arrow", table)
    with pa.ipc.new_file(str(tmp_path / "file.arrow"), table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "stream.arrow", "file.arrow"):
        assert read(tmp_path / name) == DOCUMENTS, name


def test_a_dataset_saved_on_disk(tmp_path: Path) -> None:
    save_dataset(tmp_path / "saved", RECORDS)
    (tmp_path / "saved" / "cache-1.arrow").write_bytes(b"not listed in state.json")
    assert read(tmp_path / "saved") == DOCUMENTS
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["saved"]}')
    with pytest.raises(TextError, match=r"DatasetDict; name one of its splits: .*/saved"):
        read(tmp_path)
    state = json.loads((tmp_path / "saved" / "state.json").read_text())
    state["_indices_files"] = [{"filename": "indices.arrow"}]
    (tmp_path / "saved" / "state.json").write_text(json.dumps(state))
    with pytest.raises(TextError, match="flatten_indices"):
        read(tmp_path / "saved")


def test_a_folder_of_text(tmp_path: Path) -> None:
    for name in ("b.txt", "law/two.md", "law/deep/one.txt", ".hidden/x.txt", "image.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(f"{name}\n\u00e4", encoding="utf-8")
    assert read(tmp_path / "in") == [
        SourceDocument("b.txt\n\u00e4", "in"),
        SourceDocument("law/deep/one.txt\n\u00e4", "law"),
        SourceDocument("law/two.md\n\u00e4", "law"),
    ]


def test_a_readme_beside_data_is_no_document(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "chunk2").mkdir()
    (tmp_path / "chunk2" / "a.jsonl").write_bytes(JSONL)
    assert [file.name for file in find_files([str(tmp_path)])] == [
        f"{tmp_path.name}/chunk2/a.jsonl"
    ]


def test_places_that_hold_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"")
    (tmp_path / "a.jsonl").write_bytes(JSONL)
    (tmp_path / "empty").mkdir()
    for places, message in (
        ([], "no text was given"),
        (["absent"], "does not exist"),
        (["a.bin"], "of no known kind"),
        (["empty"], "holds no files"),
        (["a.jsonl", "."], "named twice"),
    ):
        with pytest.raises(TextError, match=message):
            find_files([str(tmp_path / place) for place in places])


def test_fields_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "x", "kind": 3, "a.b": "y"}\n')
    named = replace(CONFIG, text_field="body", domain_field="kind")
    assert read(path, named) == [SourceDocument("x", "3")]
    assert read(path, replace(named, domain_field="a.b")) == [SourceDocument("x", "y")]
    assert read(path, replace(named, domain_field=None)) == [SourceDocument("x", "all")]
    (bad,) = read(path)
    assert bad.message.startswith(f"{path}, line 1: no text in field 'text'")
    (bad,) = read(path, replace(CONFIG, text_field="body"))
    assert "line 1: no domain in field 'meta.redpajama_set_name'" in bad.message
    assert "body, kind, a.b" in bad.message


@pytest.mark.parametrize(
    "line",
    [
        b'{"text": "cut',
        b'{"text": "\xff"}',
        b"[1, 2]",
        b'{"text": 5, "meta": {"redpajama_set_name": "a"}}',
        b'{"text": "\\ud800", "meta": {"redpajama_set_name": "a"}}',
        b"[" * 100_000,
    ],
)
def test_a_bad_line_is_named_and_the_rest_read(tmp_path: Path, line: bytes) -> None:
    good = JSONL.split(b"\n")
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([*good[:2], line, *good[2:]]))
    found = read(path)
    assert isinstance(found[2], BadRecord)
    assert found[2].message.startswith(f"{path}, line 3: ")
    assert [*found[:2], *found[3:]] == DOCUMENTS


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("zst", zstd)])
def test_a_compressed_file_cut_in_the_middle(tmp_path: Path, suffix: str, compress: object) -> None:
    content = compress(NOISE.encode())
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(content[: len(content) // 2])
    *good, bad = read(path, replace(CONFIG, domain_field="d"))
    assert len(good) > 1000
    assert all(isinstance(each, SourceDocument) for each in good)
    assert bad.message.startswith(f"{path}, after line {len(good)}: the rest of the file")


def test_broken_parquet(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(RECORDS)
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=500, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    middle = column.dictionary_page_offset + column.total_compressed_size // 2
    content[middle : middle + 40] = b"\0" * 40
    path.write_bytes(content)
    bad, *good = read(path)
    assert bad.message.startswith(f"{path}, rows 1 to 500: ")
    assert good == DOCUMENTS[500:]
    path.write_bytes(content[:-100])
    (bad,) = read(path)
    assert "no readable Parquet file" in bad.message


def test_broken_arrow_stream(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    write_stream(path, pa.Table.from_pylist(RECORDS))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    *good, bad = read(path)
    assert good == DOCUMENTS[: len(good)]
    assert bad.message.startswith(f"{path}, after row {len(good)}: ")
    path.write_bytes(content[:-8])  # all batches are there, but who knows
    *good, bad = read(path)
    assert good == DOCUMENTS
    assert "does not end" in bad.message


def test_broken_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo\nthr\xffee")
    assert read(path) == [BadRecord(f"{path}, line 3: not UTF-8 (invalid start byte)")]


def test_a_changed_input_changes_the_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(JSONL)
    before = source_fingerprint(find_files([str(path)]))
    assert source_fingerprint(find_files([str(path)])) == before
    path.write_bytes(JSONL + JSONL)
    assert source_fingerprint(find_files([str(path)])) != before


def test_labels_and_missing_columns_of_parquet(tmp_path: Path) -> None:
    rows = [{"text": "abcdef", "labels": [[0, 2], [4, 6]]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    config = TextDataConfig(domain_field=None, labels_field="labels")
    (document,) = read(tmp_path / "a.parquet", config)
    assert document.labels == ((0, 2), (4, 6))
    (bad,) = read(tmp_path / "a.parquet", replace(config, text_field="body"))
    assert "no column body; the file has text, labels" in bad.message


class Dropping:
    """A store whose connection is lost after the first bytes of every file."""

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes
        self._local = pyarrow.fs.LocalFileSystem()

    def open_input_file(self, path: str) -> pa.PythonFile:
        raw, limit = self._local.open_input_file(path), self._num_bytes

        class File(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                content = super().read(size)
                if self.tell() > limit:
                    raise OSError("connection reset by peer")
                return content

        return pa.PythonFile(File(raw.read()), mode="r")


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.arrow", "a.txt"])
def test_a_lost_connection_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Skipping what is damaged must not skip what did not arrive."""
    table = pa.Table.from_pylist([{"id": n, **each} for n, each in enumerate(RECORDS)])
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=300)
    write_stream(tmp_path / "a.arrow", table)
    (tmp_path / "a.jsonl").write_bytes(JSONL)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(JSONL, 0))
    (tmp_path / "a.txt").write_bytes(JSONL)
    (file,) = find_files([str(tmp_path / name)])
    store = Dropping(file.num_bytes // 2)
    monkeypatch.setattr(delivery, "Folder", lambda place: SimpleNamespace(filesystem=store))
    with pytest.raises(TextError, match=r"cannot be fetched \(connection reset by peer\); run ag"):
        list(read_documents(file, CONFIG))


@pytest.mark.parametrize("size", [1, 7, 40, 64, 65, 1000, 2**16, 10**6])
def test_parts_of_a_file_hold_every_line_once(tmp_path: Path, size: int) -> None:
    lines = [json.dumps(each) for each in RECORDS[:50]]
    lines[7] = json.dumps(RECORDS[7] | {"pad": "x" * 3000})
    for name, content in (("a", "\n".join(lines)), ("b", "\n\n".join(lines) + "\n")):
        (tmp_path / f"{name}.jsonl").write_text(content)
        (file,) = find_files([str(tmp_path / f"{name}.jsonl")])
        parts = file.parts(size)
        assert len(parts) == -(-file.num_bytes // size)
        assert [each for part in parts for each in read_documents(part, CONFIG)] == DOCUMENTS[:50]


def test_a_bad_line_of_a_part_is_found_from_its_first_byte(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(JSONL + b"no JSON\n")
    (file,) = find_files([str(tmp_path / "a.jsonl")])
    *_, last = file.parts(10_000)
    *_, bad = read_documents(last, CONFIG)
    assert isinstance(bad, BadRecord)
    line, byte = re.search(r"line (\d+) from byte (\d+)", bad.message).groups()  # type: ignore[union-attr]
    rest = (tmp_path / "a.jsonl").read_bytes()[int(byte) :]
    assert rest.split(b"\n")[int(line) - 1] == b"no JSON"


def test_only_plain_lines_are_taken_apart(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(JSONL))
    (tmp_path / "a.txt").write_bytes(JSONL)
    for name in ("a.jsonl.gz", "a.txt"):
        (file,) = find_files([str(tmp_path / name)])
        assert file.parts(100) == [file]
