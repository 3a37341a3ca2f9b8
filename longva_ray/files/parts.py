"""Numbered parts and a manifest: rows that many processes write and anybody reads by number.

    <folder>/part-00000.arrow ...   Arrow IPC: a record batch for each row, and the key of the run
                                    in the schema's metadata
    <folder>/<manifest>             JSON, written last: every part is there, and how large it is
    <folder>/held_out/...           the same for rows to validate on, where some are held out

A `Kind` says what one kind of shards is called, `Shards` reads it, `PartWriter` writes it. Equal
rows under an equal key give equal bytes. On a local disk a row is a view on mapped pages; from an
object store it is fetched without the other rows of its part. What it does not do: say what a row
means, or shuffle.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

import pyarrow as pa

from longva_ray.files.folder import INCOMING, Folder

HELD_OUT = "held_out"
"""Folder of the rows that are held out, inside that of those that are trained on."""


class Manifest(Protocol):
    """What a reader has to know before it opens a part."""

    @property
    def format_version(self) -> int: ...
    @property
    def part_bytes(self) -> tuple[int, ...]: ...
    @property
    def rows_of_parts(self) -> tuple[int, ...]: ...
    @property
    def run_key(self) -> str:
        """The key that every part carries."""
        ...

    def to_json(self) -> str: ...


RowT = TypeVar("RowT")
ManifestT = TypeVar("ManifestT", bound=Manifest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind(Generic[ManifestT]):
    """One kind of shards: its names on disk, and the words of its errors."""

    title: str
    """Such as "token shards"."""
    manifest: str
    """Name of the manifest."""
    key_field: bytes
    """Where the schema's metadata holds the run's key."""
    format_version: int
    parse: Callable[[str], ManifestT]
    """Manifest of a text; ValueError or TypeError for what is none."""
    error: type[ValueError]
    job: str
    """The command that makes such shards."""
    again: str
    """What else helps, such as "prepare the text again"."""
    hold_out: str
    """The setting of that command that holds rows out, such as "--text.held-out"."""

    def is_complete(self, folder: Folder) -> bool:
        """Whether there is a manifest, which is written last."""
        return folder.size(self.manifest) is not None

    def read_manifest(self, folder: Folder) -> ManifestT:
        """Raises the kind's error, which says what is wrong, when there is no such manifest."""
        try:
            text = folder.read(self.manifest).decode()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self.error(
                f"{folder.place} is no folder of {self.title}: it has no {self.manifest}, which is "
                f"written last; make one with {self.job}, or run that again if it was interrupted"
            ) from error
        try:
            manifest = self.parse(text)
        except (ValueError, TypeError) as error:
            raise self.error(
                f"{folder.place}/{self.manifest} is not a manifest of this version ({error}); "
                f"delete the folder and {self.again}"
            ) from error
        if manifest.format_version != self.format_version:
            raise self.error(
                f"{folder.place} has format {manifest.format_version}, this version reads "
                f"{self.format_version}; delete the folder and {self.again}"
            )
        return manifest


class Shards(Generic[ManifestT, RowT]):
    """The rows of one folder or URI: `len(shards)`, `shards[i]`, iteration.

    Travels between processes by name. Raises the kind's error when the place holds no complete
    shards, or a part is not what the manifest says.
    """

    kind: ClassVar[Kind[Any]]

    def __init__(self, place: str | Path) -> None:
        self.place = str(place)
        self._folder = Folder(place)
        self.metadata: ManifestT = self.kind.read_manifest(self._folder)
        self._first_row = [0, *itertools.accumulate(self.metadata.rows_of_parts)]
        self._readers: dict[int, pa.ipc.RecordBatchFileReader] = {}

    def __len__(self) -> int:
        return self._first_row[-1]

    def __getitem__(self, index: int) -> RowT:
        """Row `index`; negative ones count from the end. IndexError outside the shards."""
        row = index + len(self) if index < 0 else index
        if not 0 <= row < len(self):
            raise IndexError(f"row {index} of {self.kind.title} that hold {len(self)}")
        part = bisect.bisect_right(self._first_row, row) - 1
        if part not in self._readers:
            self._readers[part] = self._open(part)
        return self._row(self._readers[part].get_batch(row - self._first_row[part]))

    def __iter__(self) -> Iterator[RowT]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple[type["Shards[ManifestT, RowT]"], tuple[str]]:
        return type(self), (self.place,)

    def held_out(self) -> Self:
        """The rows that were held out of these, to validate on.

        Raises the kind's error where none were."""
        folder = self._folder.inside(HELD_OUT)
        if not self.kind.is_complete(folder):
            raise self.kind.error(
                f"{self.place} holds no rows out, so there is nothing to validate on; make shards "
                f"with {self.kind.job} {self.kind.hold_out} N, or train without validate-every"
            )
        return type(self)(folder.place)

    def verify(self) -> Iterator[ValueError | None]:
        """Read every row: for each part what is wrong with it, or None.

        Parts are not stored with a digest, so a token that the disk changed goes unnoticed.
        """
        for part, rows in enumerate(itertools.pairwise(self._first_row)):
            try:
                for row in range(*rows):
                    self[row]
            except (ValueError, OSError, pa.ArrowException) as error:
                yield self.kind.error(f"{self._folder.path(part_name(part))}: {error}")
            else:
                yield None

    def _row(self, batch: pa.RecordBatch) -> RowT:
        """What a record batch of one row says."""
        raise NotImplementedError

    def _open(self, part: int) -> pa.ipc.RecordBatchFileReader:
        name, kind = part_name(part), self.kind
        remedy = f"delete the folder's {kind.manifest} and {kind.again} to restore it"
        wrong = wrong_size(self._folder, name, self.metadata.part_bytes[part], kind.manifest)
        if wrong:
            raise kind.error(f"{wrong}; {remedy}")
        reader = self._folder.open_batches(name)
        if reader.schema.metadata[kind.key_field].decode() != self.metadata.run_key:
            raise kind.error(
                f"{self._folder.path(name)} comes from another run than {kind.manifest}; {remedy}"
            )
        return reader


class Written(NamedTuple):
    """A part that an earlier run wrote."""

    reader: pa.ipc.RecordBatchFileReader
    num_bytes: int


class PartWriter(Generic[ManifestT]):
    """Writes the parts of one run, from any process, and its manifest at the end."""

    def __init__(self, place: str, kind: Kind[ManifestT], columns: pa.Schema, key: str) -> None:
        self._folder = Folder(place)
        self._kind = kind
        self._schema = columns.with_metadata({kind.key_field: key.encode()})

    def commit(self, manifest: ManifestT) -> None:
        """Declare the shards complete."""
        self._folder.write(self._kind.manifest, manifest.to_json().encode())

    def _write(self, part: int, rows: Iterable[pa.RecordBatch]) -> int:
        """Write one part under its final name, or not at all; returns its bytes."""
        return write_batches(self._folder, part_name(part), self._schema, rows)

    def _holds(self, part: int, *, num_rows: int, num_bytes: int) -> bool:
        """Whether the part was written under the same key, with so many rows and bytes."""
        written = self._written(part, num_rows)
        return written is not None and written.num_bytes == num_bytes

    def _written(self, part: int, num_rows: int) -> Written | None:
        """The part if it was written under the same key and holds as many rows, else None."""
        name = part_name(part)
        try:
            reader = self._folder.open_batches(name)
        except (OSError, pa.ArrowInvalid):
            return None
        is_ours = reader.schema.equals(self._schema, check_metadata=True)
        num_bytes = self._folder.size(name)
        if not is_ours or num_bytes is None or reader.num_record_batches != num_rows:
            return None
        return Written(reader, num_bytes)


def part_name(part: int, suffix: str = "arrow") -> str:
    return f"part-{part:05d}.{suffix}"


def write_batches(
    folder: Folder, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> int:
    """Write a file of record batches as they come, whole or not at all; returns its bytes."""
    with folder.writing(name) as file, pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    num_bytes = folder.size(name)
    assert num_bytes is not None
    return num_bytes


def wrong_size(folder: Folder, name: str, num_bytes: int, listed_in: str) -> str:
    """What is wrong with the size of a file that a manifest lists; empty if nothing is."""
    found = folder.size(name)
    if found is None:
        return f"{folder.path(name)} is gone although {listed_in} lists it"
    if found != num_bytes:
        return (
            f"{folder.path(name)} has {found} bytes instead of {num_bytes}: it was cut short or "
            "replaced"
        )
    return ""


def clean(folder: Folder, num_parts: int) -> None:
    """Delete half-written files, and parts that an earlier, larger run left."""
    folder.delete(INCOMING)
    suffixes = ("arrow", "json")
    kept = {part_name(part, suffix) for part in range(num_parts) for suffix in suffixes}
    for info in folder.files():
        is_part = info.base_name.startswith("part-") and info.base_name.endswith(suffixes)
        if is_part and info.base_name not in kept:
            folder.delete(info.base_name)
