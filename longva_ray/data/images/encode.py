"""A slice of the samples -> one part of vision shards, and what became of each sample.

    samples -> encoded, one after another -> packed into rows -> part-00000.arrow
                    -> those that cannot be used, and why     -> part-00000.json

The second file is written last and says that the part is complete. A worker holds one row of pixels
at a time. What it does not do: choose samples, or put others in the place of those left out.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence

from longva_ray.data.images.chat import RawSample, parse_sample, printable, reason_of
from longva_ray.data.images.samples import EncodedSample, SampleEncoder
from longva_ray.data.images.shards import (
    VisionPart,
    VisionRow,
    VisionShardError,
    VisionShardWriter,
)
from longva_ray.files.folder import Folder
from longva_ray.files.parts import part_name
from longva_ray.settings.base import from_dict


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A sample that could not be used."""

    sample_id: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PartResult:
    """What became of the samples of one part; lies next to it and says that it is complete."""

    key: str
    record: VisionPart
    left_out: tuple[LeftOut, ...]

    @property
    def num_samples(self) -> int:
        """Samples that were read, written or not."""
        return self.record.num_samples + len(self.left_out)


class EncodePart:
    """Worker: encodes a slice of samples and writes it as one part."""

    def __init__(
        self,
        output: Folder,
        key: str,
        encoder: SampleEncoder,
        writer: VisionShardWriter,
        *,
        row_tokens: int,
        stop: bool,
    ) -> None:
        """
        Args:
            stop: whether a sample that cannot be used ends the run.
        """
        self._output = output
        self._key = key
        self._encoder = encoder
        self._writer = writer
        self._row_tokens = row_tokens
        self._stop = stop

    def __call__(self, part: int, samples: Sequence[RawSample]) -> PartResult:
        """Raises VisionShardError for the first sample that cannot be used, if told to stop."""
        left_out: list[LeftOut] = []
        encoded = self._encode(samples, left_out)
        record = self._writer.write_part(part, pack_rows(encoded, self._row_tokens))
        result = PartResult(key=self._key, record=record, left_out=tuple(left_out))
        content = json.dumps(dataclasses.asdict(result)).encode()
        self._output.write(part_name(part, "json"), content)
        return result

    def _encode(
        self, samples: Sequence[RawSample], left_out: list[LeftOut]
    ) -> Iterator[EncodedSample]:
        for raw in samples:
            try:
                encoded = self._encoder(parse_sample(raw))
            except Exception as error:  # whatever it is, it belongs to this sample
                name, reason = printable(raw.sample_id), reason_of(error)
                if self._stop:
                    raise VisionShardError(
                        f"sample {name}: {reason}; --images.on-error skip leaves such samples out"
                    ) from error
                left_out.append(LeftOut(sample_id=name, reason=reason))
            else:
                yield encoded


def pack_rows(samples: Iterator[EncodedSample], row_tokens: int) -> Iterator[VisionRow]:
    """Whole samples in order, as many in a row as fit into its budget."""
    row: list[EncodedSample] = []
    used = 0
    for sample in samples:
        length = len(sample.input_ids_T)
        if row and used + length > row_tokens:
            yield VisionRow.of(row)
            row, used = [], 0
        row.append(sample)
        used += length
    if row:
        yield VisionRow.of(row)


def read_result(
    output: Folder, part: int, key: str, writer: VisionShardWriter
) -> PartResult | None:
    """What an earlier run under the same key says of a part; None if it did not finish it."""
    try:
        values = json.loads(output.read(part_name(part, "json")))
    except FileNotFoundError:
        return None
    values["left_out"] = tuple(LeftOut(**each) for each in values["left_out"])
    result = from_dict(PartResult, values)
    return result if result.key == key and writer.has_part(part, result.record) else None
