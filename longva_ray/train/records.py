"""What a run tells about itself: a record of every step, and how it ended.

Both cross process boundaries, so they hold plain numbers and text.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord:
    """What one optimizer step was."""

    step: int
    """Steps done, this one included."""
    loss: float
    """Mean over all labels of the step, in nats."""
    grad_norm: float
    """Before clipping."""
    learning_rate: float
    labels: int
    """Labelled tokens, or pairs of answers."""
    tokens: int
    """Over all workers, without padding."""
    flops: float
    """Model FLOPs of the step, over all workers."""
    seconds: float
    memory_gib: float
    """Peak of rank 0: device memory, or host memory of a CPU worker."""
    held_out: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Measures of the held-out rows after this step (`stage.Stage.validate`); empty after a step
    that reads none."""
    measured: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """What else the stage measured, by name."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a run ended."""

    status: Literal["finished", "stopped", "diverged", "failed"]
    step: int
    message: str = ""
    already: bool = False
    """Whether an earlier run had done every step."""
    peak_flops: float | None = None
    """FLOPs per second of one worker's matrix product (`train.speed`)."""

    def describe(self, where: str) -> str:
        """What a person is told about a run in the folder `where`, and what to do next."""
        if self.status == "finished" and self.already:
            return (
                f"already finished: all {self.step} steps were done before; the model is in "
                f"{where}/final"
            )
        if self.status == "finished":
            return f"finished after {self.step} steps; the model is in {where}/final"
        told = f"{self.status} after step {self.step}. {self.message}"
        if self.status == "diverged":
            return (
                f"{told}\nthe same settings would diverge again; change some, under another --name"
            )
        return f"{told}\nthe same --name continues from the last checkpoint in {where}"
