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
    table = pa.table([pa.array([f"column {number}"]) for number in range(len(names))], names)
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
    assert f"{name}: 2 columns are named 'text'" in bad.message
    assert "rename or drop the others" in bad.message


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_columns_that_are_not_read_may_share_a_name(tmp_path: Path, name: str) -> None:
    write_table(tmp_path / name, ["text", "other", "other"])
    (file,) = find_files([str(tmp_path / name)])
    (document,) = read_documents(file, TextDataConfig(domain_field=None))
    assert document == SourceDocument("column 0", "all")
