"""The report next to shards of samples: numbers, and why samples were left out.

    results of all parts, numbers -> report.json -> lines for a person

What it does not do: say which numbers; each kind of shards has its own.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from longva_ray.data.sample_parts import PartResult
from longva_ray.files.folder import Folder

REPORT_NAME = "report.json"

SHOWN = 5


def write_report(
    folder: Folder, numbers: Mapping[str, int], results: Sequence[PartResult[Any]]
) -> None:
    """Write numbers, and the name and reason of every sample left out."""
    left_out = [dataclasses.asdict(each) for result in results for each in result.left_out]
    content = json.dumps({**numbers, "left_out": left_out}, indent=2) + "\n"
    folder.write(REPORT_NAME, content.encode())


def describe_report(place: str, what: str) -> str:
    """The report in a folder of shards: its numbers, and the first few that were left out.

    `what` is what a sample is called there, in the plural.
    """
    report = json.loads(Folder(place).read(REPORT_NAME))
    left_out = report.pop("left_out")
    lines = [
        ", ".join(f"{value:,} {name}" for name, value in report.items()),
        f"{len(left_out)} {what} were left out",
        *(f"  {each['sample_id']}: {each['reason']}" for each in left_out[:SHOWN]),
    ]
    if len(left_out) > SHOWN:
        more = len(left_out) - SHOWN
        lines.append(f"  and {more} more: all are in {place}/{REPORT_NAME}, left_out")
    return "\n".join(lines)
