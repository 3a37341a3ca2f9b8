"""Groups of documents on disk: where tokenising leaves tokens and packing finds them.

    group-00000.tokens  int32 ids of all its documents, after one another
    group-00000.arrow   length and domain of each document, and counts; written last. Where some
                        are to be held out, also the number that decides which

Groups are the unit of parallel work and of resuming. Their borders follow from the files alone, and
the documents of all groups in order are the documents of all files in order. Token files are raw,
so that a packer can read any document with one ranged read, from a disk or an object store.

Shapes: D documents.
"""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from longva_ray.data.text.files import SourceFile
from longva_ray.files.folder import Folder
from longva_ray.settings.base import from_dict

TOKEN_DTYPE = np.dtype("<i4")

MIN_PART_BYTES = 2**20
"""Of a large file; less is not worth a task."""

_COUNTS = b"longva_ray.counts"
_NUMBER = "number"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GroupCounts:
    """What became of the records of a group that are no documents, and a digest of its tokens."""

    empty: dict[str, int]
    """Documents without text, for each domain."""
    unreadable: int
    messages: tuple[str, ...]
    """What was wrong with the first unreadable ones."""
    tokens_blake2b: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TokenisedGroup:
    """The index of one group."""

    lengths_D: npt.NDArray[np.int32]
    """Tokens of each document, its separator included."""
    domains_D: npt.NDArray[np.int32]
    """Number of each document's domain in `domain_names`."""
    domain_names: tuple[str, ...]
    counts: GroupCounts
    number_D: npt.NDArray[np.uint64] | None = None
    """What says which documents are held out (`data.held_out`); None where none are."""


def group_files(files: Sequence[SourceFile], group_bytes: int) -> list[tuple[SourceFile, ...]]:
    """Consecutive files together, each group as long as it stays within `group_bytes`; each part of
    a larger file of JSON lines by itself."""
    groups: list[list[SourceFile]] = []
    size = 0
    for part in (part for file in files for part in file.parts(max(group_bytes, MIN_PART_BYTES))):
        start, stop = part.span or (0, part.num_bytes)
        if not groups or size + stop - start > group_bytes:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += stop - start
    return [tuple(group) for group in groups]


def read_group(work: Folder, group: int) -> TokenisedGroup | None:
    """The index of a group, or None if its tokens are not all there."""
    try:
        with work.open(index_name(group)) as file:
            table = pa.ipc.open_file(file).read_all()
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    names = table.schema.field("domain").type
    assert isinstance(names, pa.DictionaryType)
    domain = table.column("domain").combine_chunks()
    lengths = table.column("length").to_numpy()
    num_bytes = TOKEN_DTYPE.itemsize * int(lengths.sum(dtype=np.int64))
    if work.size(tokens_name(group)) != num_bytes:
        return None
    return TokenisedGroup(
        lengths_D=lengths,
        domains_D=domain.indices.to_numpy(),
        domain_names=tuple(domain.dictionary.to_pylist()),
        counts=from_dict(GroupCounts, json.loads(table.schema.metadata[_COUNTS])),
        number_D=table.column(_NUMBER).to_numpy() if _NUMBER in table.column_names else None,
    )


def tokens_name(group: int) -> str:
    return f"group-{group:05d}.tokens"


def index_name(group: int) -> str:
    return f"group-{group:05d}.arrow"


def group_index(
    lengths: list[int], domains: list[str], counts: GroupCounts, numbers: list[int] | None
) -> pa.Buffer:
    """The content of a group's index; `numbers` are those of `TokenisedGroup.number_D`."""
    names = sorted(set(domains))
    number = {name: index for index, name in enumerate(names)}
    codes = pa.array([number[domain] for domain in domains], pa.int32())
    columns = {
        "length": pa.array(lengths, pa.int32()),
        "domain": pa.DictionaryArray.from_arrays(codes, pa.array(names, pa.string())),
    }
    if numbers is not None:
        columns[_NUMBER] = pa.array(numbers, pa.uint64())
    table = pa.table(columns).replace_schema_metadata(
        {_COUNTS: json.dumps(dataclasses.asdict(counts)).encode()}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
