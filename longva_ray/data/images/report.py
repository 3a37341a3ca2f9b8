"""The numbers in the report next to vision shards (`data.sample_report`)."""

from collections.abc import Sequence

from longva_ray.data.images.shards import VisionPart
from longva_ray.data.sample_parts import PartResult


def image_numbers(results: Sequence[PartResult[VisionPart]]) -> dict[str, int]:
    """Where every sample went, and what the written ones are."""
    records = [result.record for result in results]
    return {
        "samples": sum(result.num_samples for result in results),
        "written": sum(record.num_samples for record in records),
        "rows": sum(len(record.row_tokens) for record in records),
        "tokens": sum(sum(record.row_tokens) for record in records),
        "trained_tokens": sum(record.num_trained for record in records),
        "grids": sum(sum(record.row_grids) for record in records),
    }
