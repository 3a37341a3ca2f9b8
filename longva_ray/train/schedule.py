"""Learning rate of a step: linear warmup, then constant, or a line or cosine to zero."""

import math

from longva_ray.settings.training import Schedule


def learning_rate(
    step: int,
    *,
    peak: float,
    warmup_steps: int,
    steps: int,
    schedule: Schedule,
) -> float:
    """The rate of `step`, counted from 0; step `warmup_steps` is the first at `peak`."""
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return peak
    progress = min((step - warmup_steps) / max(1, steps - warmup_steps), 1.0)
    if schedule == "linear":
        return peak * (1 - progress)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
