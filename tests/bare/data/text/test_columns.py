"""Tables in which two columns have one name."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longva_ray.data.text.documents import BadRecord, SourceDocument
from longva_ray.data.text.files import find_files
from longva_ray.data.text.sources import read_documents
from longva_ray.settings.data import TextDataConfig


def write_table(path: Path, names: list[str]) -> None:
    write(path, pa.table([pa.array([f"column {n}"]) for n in range(len(names))], names))


def write(path: Path, table: pa.Table) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_column_that_is_read_has_its_name_alone(tmp_path: Path, name: str) -> None:
    config = TextDataConfig(domain_field=None)
    write_table(tmp_path / name, ["text", "other", "text"])
    (file,) = find_files([str(tmp_path / name)])
    (bad,) = read_documents(file, config)
    assert isinstance(bad, BadRecord)
    assert f"{name}: two columns or fields are named 'text'" in bad.message
    assert "rename or drop the others" in bad.message


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_columns_that_are_not_read_may_share_a_name(tmp_path: Path, name: str) -> None:
    write_table(tmp_path / name, ["text", "other", "other"])
    (file,) = find_files([str(tmp_path / name)])
    (document,) = read_documents(file, TextDataConfig(domain_field=None))
    assert document == SourceDocument("column 0", "all")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_fields_inside_a_column_have_their_names_alone_too(tmp_path: Path, name: str) -> None:
    inside = pa.StructArray.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["set", "set"])
    deeper = pa.StructArray.from_arrays([inside], names=["about"])
    for meta, told in ((inside, "'meta.set'"), (deeper, "'meta.about.set'")):
        write(tmp_path / name, pa.table([pa.array(["hello"]), meta], names=["text", "meta"]))
        (file,) = find_files([str(tmp_path / name)])
        (bad,) = read_documents(file, TextDataConfig(domain_field="meta.set"))
        assert isinstance(bad, BadRecord)
        assert f"{name}: two columns or fields are named {told}" in bad.message
        (document,) = read_documents(file, TextDataConfig(domain_field=None))
        assert document == SourceDocument("hello", "all")


def test_a_name_that_stands_twice_in_a_line_of_json_is_refused_where_it_is_read(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.jsonl"
    twice = '{"text": "one", "text": "two"}', '{"text": "a", "n": {"set": "x", "set": "y"}}'
    path.write_text("\n".join([*twice, '{"text": "b", "n": {"set": "z", "m": 1, "m": 2}}']))
    (file,) = find_files([str(path)])
    one, other, whole = read_documents(file, TextDataConfig(domain_field="n.set"))
    assert isinstance(one, BadRecord)
    assert isinstance(other, BadRecord)
    assert "line 1" in one.message
    assert "fields are named 'text'" in one.message
    assert "fields are named 'set'" in other.message
    assert whole == SourceDocument("b", "z")
