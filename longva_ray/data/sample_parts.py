"""A slice of samples -> one part of shards, and what became of each sample.

    samples -> encoded, one after another -> packed into rows -> part-00000.arrow
                    -> those that cannot be used, and why     -> part-00000.json

The second file is written last and says that the part is complete. A worker holds one row at a
time. What it does not do: choose samples, or put others in the place of those left out.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from longva_ray.data.images.chat import RawSample, printable, reason_of
from longva_ray.files.folder import Folder
from longva_ray.files.parts import part_name
from longva_ray.settings.base import from_dict


class PartRecord(Protocol):
    """What a writer says of a part."""

    @property
    def num_samples(self) -> int: ...


SampleT = TypeVar("SampleT")
RowT = TypeVar("RowT", contravariant=True)
RecordT = TypeVar("RecordT", bound=PartRecord)


class Writer(Protocol[RowT, RecordT]):
    """What writes the parts of a run."""

    def write_part(self, part: int, rows: Iterable[RowT]) -> RecordT: ...

    def has_part(self, part: int, record: RecordT) -> bool:
        """Whether an earlier run under the same key wrote the part that this record is of."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A sample that could not be used."""

    sample_id: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartResult(Generic[RecordT]):
    """What became of the samples of one part; lies next to it and says that it is complete."""

    key: str
    record: RecordT
    left_out: tuple[LeftOut, ...]

    @property
    def num_samples(self) -> int:
        """Samples that were read, written or not."""
        return self.record.num_samples + len(self.left_out)


class EncodePart(Generic[SampleT, RowT, RecordT]):
    """Worker: encodes a slice of samples and writes it as one part."""

    def __init__(
        self,
        output: Folder,
        key: str,
        encode: Callable[[RawSample], SampleT],
        pack: Callable[[Iterator[SampleT]], Iterator[RowT]],
        writer: Writer[RowT, RecordT],
        *,
        stop: bool,
        settings: str,
        error: type[ValueError],
    ) -> None:
        """
        Args:
            encode: whatever it raises belongs to its sample.
            pack: samples in order -> the rows of a part.
            stop: whether a sample that cannot be used ends the run, with `error`.
            settings: what the command line calls them.
        """
        self._output = output
        self._key = key
        self._encode = encode
        self._pack = pack
        self._writer = writer
        self._stop = stop
        self._settings = settings
        self._error = error

    def __call__(self, part: int, samples: Sequence[RawSample]) -> PartResult[RecordT]:
        left_out: list[LeftOut] = []
        rows = self._pack(self._encoded(samples, left_out))
        record = self._writer.write_part(part, rows)
        result = PartResult(key=self._key, record=record, left_out=tuple(left_out))
        content = json.dumps(dataclasses.asdict(result)).encode()
        self._output.write(part_name(part, "json"), content)
        return result

    def _encoded(self, samples: Sequence[RawSample], left_out: list[LeftOut]) -> Iterator[SampleT]:
        for raw in samples:
            try:
                encoded = self._encode(raw)
            except Exception as error:  # whatever it is, it belongs to this sample
                name, reason = printable(raw.sample_id), reason_of(error)
                if self._stop:
                    raise self._error(
                        f"sample {name}: {reason}; --{self._settings}.on-error skip leaves such "
                        "samples out"
                    ) from error
                left_out.append(LeftOut(sample_id=name, reason=reason))
            else:
                yield encoded


def read_result(
    output: Folder, part: int, key: str, writer: Writer[Any, RecordT], record: type[RecordT]
) -> PartResult[RecordT] | None:
    """What an earlier run under the same key says of a part; None if it did not finish it."""
    try:
        values = json.loads(output.read(part_name(part, "json")))
    except FileNotFoundError:
        return None
    values["left_out"] = tuple(LeftOut(**each) for each in values["left_out"])
    values["record"] = from_dict(record, values["record"])
    result: PartResult[RecordT] = from_dict(PartResult, values)
    return result if result.key == key and writer.has_part(part, result.record) else None


def check_any(results: Sequence[PartResult[RecordT]], error: type[ValueError]) -> None:
    """Raises `error` if no sample of all parts could be used."""
    if any(result.record.num_samples for result in results):
        return
    left_out = [each for result in results for each in result.left_out]
    raise error(
        f"none of {len(left_out)} samples can be used; the first is {left_out[0].sample_id}: "
        f"{left_out[0].reason}"
    )
