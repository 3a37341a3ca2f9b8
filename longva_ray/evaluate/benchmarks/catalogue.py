"""The benchmarks of the paper and newer ones: tasks of lmms-eval 0.7.3, and the paper's scores.

What lmms-eval calls a score stands beside what the paper calls it, with the factor between the two.
Tables 4, 7 and 9 are pictures in the copies of the paper that could be read here. So of Tables 4
and 9 there is only what other papers repeat, with their name, and of Table 7 nothing.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

PAPER = "the paper"

REPEATED_VIDEOMME = "as InternLM-XComposer2.5-OmniLive repeats it"

REPEATED_MLVU = "as LongVU (arXiv 2410.17434) repeats it"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """A task of lmms-eval, or a group of them."""

    kind: Literal["video", "image"]
    metrics: Mapping[str, float]
    """Scores by lmms-eval's names, each with what it is multiplied by to be the paper's."""
    table: str
    """Of the paper; empty for a benchmark that is newer."""
    judged: bool = False
    """A model of OpenAI's API judges the answers: lmms-eval wants $OPENAI_API_KEY."""


def _video(table: str, *metrics: str, judged: bool = False, scale: float = 1.0) -> Benchmark:
    scores = dict.fromkeys(metrics, scale)
    return Benchmark(kind="video", metrics=scores, table=table, judged=judged)


def _image(*metrics: str) -> Benchmark:
    return Benchmark(kind="image", metrics=dict.fromkeys(metrics, 100.0), table="Table 7")


_CHATGPT = ("correctness", "detailed_orientation", "context", "temporal", "consistency")

BENCHMARKS: Mapping[str, Benchmark] = {
    "videomme": _video("Table 4", "videomme_perception_score"),
    "mlvu_dev": _video("Table 9", "mlvu_percetion_score"),  # as lmms-eval spells it
    "nextqa_mc_test": _video("Table 6", "exact_match", scale=100.0),
    "nextqa_oe_test": _video("Table 6", "WUPS"),
    "activitynetqa": _video("Table 6", "gpt_eval_accuracy", "gpt_eval_score", judged=True),
    "videochatgpt": _video(
        "Table 6", *(f"gpt_eval_score_{name}" for name in _CHATGPT), judged=True
    ),
    "video_dc499": _video("Table 6", "gpt_eval_score", judged=True),
    "ai2d": _image("exact_match"),
    "chartqa": _image("relaxed_overall"),
    "docvqa_val": _image("anls"),
    "infovqa_val": _image("anls"),
    "realworldqa": _image("exact_match"),
    "mmmu_val": _image("mmmu_acc"),
    "timescope": _video("", "timescope_perception_score"),
    "longtimescope": _video("", "timescope_perception_score"),
    "videomme_v2": _video("", "videomme_v2_overall_score", "videomme_v2_overall_acc"),
    "longva_questions": _video("", "right", scale=100.0),
    "longva_choices": _video("", "right", scale=100.0),
    "longva_vniah": _video("", "right", scale=100.0),
}
"""By lmms-eval's name."""

LOCAL = {
    "longva_questions": "questions.jsonl",
    "longva_choices": "questions.jsonl",
    "longva_vniah": "vniah.jsonl",
}
"""Tasks of this package about local videos, and the file that each reads."""

OF_THE_PAPER = tuple(name for name, benchmark in BENCHMARKS.items() if benchmark.table)
"""The twelve of the paper; NExT-QA has two tasks."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PaperScore:
    """One number of the paper about LongVA."""

    table: str
    task: str
    metric: str
    model: Literal["LongVA", "LongVA-DPO"]
    frames: int
    score: float
    source: str


def _score(
    table: str, task: str, metric: str, frames: int, score: float, source: str
) -> PaperScore:
    return PaperScore(
        table=table,
        task=task,
        metric=metric,
        model="LongVA",
        frames=frames,
        score=score,
        source=source,
    )


def _table_6(task: str, metric: str, *scores: float) -> list[PaperScore]:
    """A column of Table 6: LongVA with 8, 16, 32 and 64 frames, then LongVA-DPO with 32."""
    *plain, dpo = scores
    found = [
        _score("Table 6", task, metric, frames, score, PAPER)
        for frames, score in zip((8, 16, 32, 64), plain, strict=True)
    ]
    return [*found, dataclasses.replace(found[2], model="LongVA-DPO", score=dpo)]


_GPT = "gpt_eval_score"

PAPER_SCORES: tuple[PaperScore, ...] = (
    _score("Table 4", "videomme", "videomme_perception_score", 128, 52.6, REPEATED_VIDEOMME),
    _score("Table 9", "mlvu_dev", "mlvu_percetion_score", 128, 56.3, REPEATED_MLVU),
    *_table_6("nextqa_mc_test", "exact_match", 50.78, 61.61, 67.08, 68.27, 69.26),
    *_table_6("nextqa_oe_test", "WUPS", 27.71, 27.87, 27.87, 27.81, 28.02),
    *_table_6("activitynetqa", _GPT, 2.73, 2.78, 2.80, 2.84, 2.80),
    *_table_6("videochatgpt", f"{_GPT}_consistency", 3.73, 3.61, 3.65, 3.64, 4.07),
    *_table_6("videochatgpt", f"{_GPT}_correctness", 3.09, 3.13, 3.08, 3.05, 3.55),
    *_table_6("videochatgpt", f"{_GPT}_detailed_orientation", 3.14, 3.15, 3.10, 3.09, 3.32),
    *_table_6("videochatgpt", f"{_GPT}_context", 3.72, 3.75, 3.74, 3.77, 4.09),
    *_table_6("videochatgpt", f"{_GPT}_temporal", 2.39, 2.40, 2.28, 2.44, 2.86),
    *_table_6("video_dc499", _GPT, 3.19, 3.22, 3.19, 3.14, 3.58),
)
