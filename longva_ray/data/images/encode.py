"""Samples packed into rows, and the worker that writes a part of them (`data.sample_parts`).

samples -> encoded, one after another -> rows of at most so many tokens -> part-00000.arrow

A worker holds one row of pixels at a time.
"""

import functools
from collections.abc import Iterator

from longva_ray.data.images.samples import EncodedSample, SampleEncoder
from longva_ray.data.images.shards import (
    VisionPart,
    VisionRow,
    VisionShardError,
    VisionShardWriter,
)
from longva_ray.data.sample_parts import EncodePart
from longva_ray.files.folder import Folder


def part_worker(
    output: Folder,
    key: str,
    encoder: SampleEncoder,
    writer: VisionShardWriter,
    *,
    row_tokens: int,
    stop: bool,
) -> EncodePart[EncodedSample, VisionRow, VisionPart]:
    """Worker: encodes a slice of samples and writes it as one part.

    It raises VisionShardError for the first sample that cannot be used, if told to stop.
    """
    return EncodePart(
        output,
        key,
        encoder.encode,
        functools.partial(pack_rows, row_tokens=row_tokens),
        writer,
        stop=stop,
        settings="images",
        error=VisionShardError,
    )


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
