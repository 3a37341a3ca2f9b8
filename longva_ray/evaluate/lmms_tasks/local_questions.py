"""What the tasks of this folder ask, and how lmms-eval scores it: as `jobs/eval_questions.py` does
with `--questions.decide generate`. `longva_choices` is for models that know no letters.

lmms-eval loads this file by its path, in an environment without this package. So it takes the
rules by their path, too.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


def _load_rules() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "questions" / "rules.py"
    spec = importlib.util.spec_from_file_location("longva_ray_rules", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_rules = _load_rules()


def doc_to_visual(doc: Mapping[str, Any]) -> list[str]:
    """The video's path."""
    return [doc["video"]]


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """A choice with its options, an open question alone."""
    text: str = _rules.choice_prompt(doc["question"], doc["options"])
    return text


def question_alone(doc: Mapping[str, Any]) -> str:
    """The question without its options, one of which is then said in words."""
    question: str = doc["question"]
    return question


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """1 for a right answer."""
    right, _ = _rules.judge_free_answer(results[0], doc["options"], doc["answer"])
    return {"right": float(right)}
