"""What each switch of a training step buys in memory: the same set-up without it, and with it.

Not every switch makes longer sequences fit. Some hold more to save time, and some move bytes to the
host, which may be the limit. `Switch.trade` says which.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from longva_ray.planner.setup import Setup
from longva_ray.settings.training import PreferConfig

ALWAYS_ON = "(always on)"


HOST = "GPU memory for host memory; longer without, where hosts are the limit"


class Switch(NamedTuple):
    """Something that a step may do or leave."""

    name: str
    option: str
    """What turns it on."""
    option_off: str
    """What turns it off."""
    trade: str
    """What it gives for what."""
    off: Setup
    on: Setup


def switches(setup: Setup) -> Iterator[Switch]:
    """Every switch that memory depends on, all else as in the set-up."""
    stage = "prefer" if isinstance(setup.train, PreferConfig) else "extend"

    def planned(**changes: Any) -> Setup:
        return dataclasses.replace(setup, **changes)

    def trained(**changes: Any) -> Setup:
        return planned(train=dataclasses.replace(setup.train, **changes))

    if stage == "extend":  # that of two answers is never anything else
        yield Switch(
            "tiled loss",
            ALWAYS_ON,
            ALWAYS_ON,
            "never holds the scores of all words for all tokens",
            *(planned(tiled_loss=on) for on in (False, True)),
        )
    yield from _activations(setup, trained, stage)
    yield Switch(
        "kept ring outputs",
        ALWAYS_ON,
        ALWAYS_ON,
        "holds more, so that the ring runs once; longer without",
        *(planned(keep_ring=on) for on in (False, True)),
    )
    yield Switch(
        "all-gathered keys",
        f"--{stage}.ring-schedule all_gather",
        f"--{stage}.ring-schedule ring",
        "holds all keys at once, for fewer messages; longer without",
        *(trained(ring_schedule=schedule) for schedule in ("ring", "all_gather")),
    )
    yield Switch(
        f"ring of {setup.gpus}",
        f"--ring-size {setup.gpus}",
        "--ring-size 1",
        "divides a sequence among the GPUs",
        *(planned(ring_size=size) for size in (1, setup.gpus)),
    )
    if setup.train.zero_stage:
        yield from _model_states(trained, stage)
    if stage == "prefer":
        yield from _second_models(trained)


def _activations(setup: Setup, trained: Callable[..., Setup], stage: str) -> Iterator[Switch]:
    """What of a layer is held at a time, and where."""
    yield Switch(
        "activation checkpoints",
        f"--{stage}.checkpoint-activations",
        f"--{stage}.no-checkpoint-activations",
        "holds the inputs of layers alone; computes every layer twice",
        *(trained(checkpoint_activations=on) for on in (False, True)),
    )
    yield Switch(
        "checkpoints on the host",
        f"--{stage}.offload-activations",
        f"--{stage}.no-offload-activations",
        HOST,
        *(trained(offload_activations=on) for on in (False, True)),
    )
    # Several rings of rows of different lengths would wait for each other (`settings.training`).
    if stage == "extend" or setup.train.zero_stage < 3 or setup.ring_size == setup.gpus:
        yield Switch(
            "tiled MLPs",
            f"--{stage}.tile-mlps",
            f"--{stage}.no-tile-mlps",
            "computes some tokens at a time",
            *(trained(tile_mlps=on) for on in (False, True)),
        )


def _second_models(trained: Callable[..., Setup]) -> Iterator[Switch]:
    """What preference tuning may have beside the language model."""
    yield Switch(
        "live reference",
        "--prefer.reference live",
        "--prefer.reference stored",
        "holds a second language model, for pairs without log-probabilities; longer without",
        *(trained(reference=reference) for reference in ("stored", "live")),
    )
    yield Switch(
        "trained tower",
        "--prefer.train all",
        "--prefer.train language",
        "encodes anew, and trains what encodes; longer without",
        *(trained(train=train) for train in ("language", "all")),
    )


def _model_states(trained: Callable[..., Setup], stage: str) -> Iterator[Switch]:
    """Where weights, gradients and optimizer states lie; DeepSpeed alone can move them."""
    yield Switch(
        "model states on the host",
        f"--{stage}.offload",
        f"--{stage}.no-offload",
        HOST,
        *(trained(offload=on) for on in (False, True)),
    )
    yield Switch(
        "ZeRO-3 instead of ZeRO-1",
        f"--{stage}.zero-stage 3",
        f"--{stage}.zero-stage 1",
        "divides weights and gradients, too; gathers those of a layer when it runs",
        *(trained(zero_stage=stage) for stage in (1, 3)),
    )
