"""What the training loop needs to know about a stage: a model, its batches, and its loss.

    step -> [MicroBatch, ...] -> model(**inputs, denominator=...) -> the step's mean loss

The loop (`train.loop`) runs any stage: text extension, vision alignment, preference tuning. A
stage decides which weights are trained and how fast, reads its own data, and writes the result; it
sees neither optimizer nor workers. Everything a stage does must be a function of the step, so that
a run can be continued exactly.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from longva_ray.ring.mesh import RingMesh

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """This rank's share of one forward pass."""

    inputs: dict[str, Any]
    """Keyword arguments of the stage's module; tensors on any device."""
    num_labels: int
    """What the step's loss is a mean over, as far as it is on this rank: labelled tokens, or
    pairs."""
    num_tokens: int
    """Tokens on this rank, padding left out where the stage knows it."""
    flops: float
    """Model FLOPs of forward and backward on this rank; recomputation is not counted."""


class Stage(Protocol):
    """One kind of training."""

    def build(self, mesh: RingMesh, device: torch.device) -> torch.nn.Module:
        """The module to train, on the CPU and in its final dtype.

        Called with the inputs of a MicroBatch and `denominator` it returns a scalar: the sum of
        this micro-batch's losses over all ranks, divided by `denominator`. Its gradients are such
        that their mean over all ranks is the gradient of that scalar.
        """
        ...

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Trained parameters: `params`, and `lr_factor` on the learning rate."""
        ...

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """This rank's micro-batches of a step: as many on every rank."""
        ...

    def validate(self, run: Callable[..., Any]) -> dict[str, float]:
        """Measures of the held-out rows by name, `loss` among them; the same on all ranks.

        Called on all ranks after a step, in evaluation mode and without gradients. `run` calls the
        module, equally often on every rank.
        """
        ...

    def measured(self) -> dict[str, float]:
        """What the step's forward passes told beside the loss, by name; the same on all ranks. They
        are forgotten then."""
        ...

    def check(self) -> None:
        """Assert what moving and casting a model may have broken."""
        ...

    def identity(self) -> dict[str, Any]:
        """What a run must keep to be continued exactly: data, order, architecture."""
        ...

    def model(self) -> PreTrainedModel:
        """The model whose weights are the result; its parameters are those of the module."""
        ...

    def save(self, weights: dict[str, torch.Tensor], folder: Path) -> None:
        """Write the result, given the whole weights of `model()` by name."""
        ...
