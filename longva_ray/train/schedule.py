"""Learning rate of a step: linear warmup, then constant or a cosine to zero."""

import math
from typing import Literal


def learning_rate(
    step: int,
    *,
    peak: float,
    warmup_steps: int,
    steps: int,
    schedule: Literal["constant", "cosine"],
) -> float:
    """The rate of `step`, counted from 0; step `warmup_steps` is the first at `peak`."""
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return peak
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
