"""What lmms-eval wrote of one task -> its scores, or why there are none."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from longva_ray.evaluate.benchmarks.catalogue import BENCHMARKS
from longva_ray.evaluate.benchmarks.runs import FAILED


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """A finished run, in the paper's units."""

    scores: Mapping[str, float]
    """By lmms-eval's name of the metric; a group's are those of its tasks."""
    errors: Mapping[str, float]
    """Standard errors, where lmms-eval gives one."""
    questions: int
    files: str
    """Path of the results."""


def read_scores(task: str, folder: Path) -> Scores | None:
    """The newest results in the folder of a run; None when it did not finish.

    Raises ValueError when requests failed, since lmms-eval counts those as wrong answers.
    """
    for path in sorted(folder.glob("*/*_results.json"), reverse=True):
        try:
            found = json.loads(path.read_text())
        except json.JSONDecodeError:  # a kill cut it short
            continue
        _check_requests(path)
        return _scores(task, found, path)
    return None


def _scores(task: str, found: Mapping[str, Any], path: Path) -> Scores:
    scores, errors = {}, {}
    for of_task in found["results"].values():
        for metric, scale in BENCHMARKS[task].metrics.items():
            for name, value in of_task.items():
                kind, _, _ = name.partition(",")
                if not isinstance(value, int | float):
                    continue
                if kind == metric:
                    scores[metric] = value * scale
                elif kind == f"{metric}_stderr":
                    errors[metric] = value * scale
    if not scores:
        raise ValueError(
            f"{path} has none of the scores {', '.join(BENCHMARKS[task].metrics)}; it has "
            f"{sorted({name for each in found['results'].values() for name in each})}"
        )
    questions = sum(each["effective"] for each in found["n-samples"].values())
    return Scores(scores=scores, errors=errors, questions=questions, files=str(path))


def _check_requests(results: Path) -> None:
    failed = [text for text in _answers(results) if text.startswith(FAILED)]
    if failed:
        raise ValueError(
            f"{len(failed)} request(s) of {results.parent.parent} failed and would count as wrong "
            f"answers; the first: {failed[0]}; see its lmms-eval.log and the server's log, and "
            "start this again"
        )


def _answers(results: Path) -> Iterator[str]:
    """Every answer of the model, from the samples beside the results."""
    started = results.name.removesuffix("_results.json")
    for path in sorted(results.parent.glob(f"{started}_samples_*.jsonl")):
        for line in path.read_text().split("\n"):
            if line:
                yield from _texts(json.loads(line)["filtered_resps"])


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
