"""The ceiling of the needle test on video: what a model answers about each needle alone.

    outcomes -> rates of the needles that were the only frame, and a warning where they are low

A model that cannot read a needle scores 0 at every length, and that says nothing about its
context. So the needles alone come first, and a low ceiling is reported before the long part of the
test begins.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from longva_ray.evaluate.ledger import TrialOutcome
from longva_ray.evaluate.rates import describe_rates, rates

logger = logging.getLogger(__name__)


LOW = 0.5
"""A ceiling below this share of needles is reported loudly."""


def is_alone(outcome: TrialOutcome) -> bool:
    """Whether the needle was the only frame."""
    return outcome["num_frames"] == 0


def describe_ceiling(ceiling: dict[str, Any]) -> list[str]:
    """The rates of needles alone in lines for a person, and what follows from low ones."""
    lines = [f"needles alone (ceiling), {line}" for line in describe_rates(ceiling)]
    found = ceiling["exact"]
    if found["score"] < LOW:
        lines.append(
            f"LOW CEILING: it reads {round(found['score'] * found['trials'])} of "
            f"{found['trials']} needles even when they are alone, so its scores say little about "
            "long context; give needles that it can read, by --vniah.needles or --vniah.world"
        )
    return lines


def say_ceiling(name: str, outcomes: Mapping[str, TrialOutcome]) -> None:
    """Log the ceiling as soon as it is among the outcomes that a sweep has just recorded."""
    alone: Sequence[TrialOutcome] = list(filter(is_alone, outcomes.values()))
    if alone:
        found = rates(alone)
        low = found["exact"]["score"] < LOW
        for line in describe_ceiling(found):
            logger.log(logging.WARNING if low else logging.INFO, "%s: %s", name, line)
