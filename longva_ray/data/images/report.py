"""The report next to vision shards: how many samples were written, and why others were not.

results of all parts -> numbers, and the name and reason of every sample left out -> JSON
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from longva_ray.data.images.encode import PartResult
from longva_ray.files.folder import Folder

REPORT_NAME = "report.json"


def image_report(results: Sequence[PartResult]) -> dict[str, Any]:
    """Where every sample went: written, or left out with its reason."""
    left_out = [each for result in results for each in result.left_out]
    records = [result.record for result in results]
    return {
        "samples": sum(record.num_samples for record in records) + len(left_out),
        "written": sum(record.num_samples for record in records),
        "rows": sum(len(record.row_tokens) for record in records),
        "tokens": sum(sum(record.row_tokens) for record in records),
        "trained_tokens": sum(record.num_trained for record in records),
        "grids": sum(sum(record.row_grids) for record in records),
        "left_out": [dataclasses.asdict(each) for each in left_out],
    }


def read_image_report(place: str) -> dict[str, Any]:
    return json.loads(Folder(place).read(REPORT_NAME))
