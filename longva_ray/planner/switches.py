"""What each switch of a training step buys in memory: the same set-up without it, and with it.

Not every switch makes longer sequences fit. Some hold more to save time, and some move bytes to the
host, which may be the limit. `Switch.trade` says which.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from longva_ray.planner.setup import Setup

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

    def planned(**changes: Any) -> Setup:
        return dataclasses.replace(setup, **changes)

    def trained(**changes: Any) -> Setup:
        return planned(train=dataclasses.replace(setup.train, **changes))

    yield Switch(
        "tiled loss",
        ALWAYS_ON,
        ALWAYS_ON,
        "never holds the scores of all words for all tokens",
        *(planned(tiled_loss=on) for on in (False, True)),
    )
    yield Switch(
        "activation checkpoints",
        "--extend.checkpoint-activations",
        "--extend.no-checkpoint-activations",
        "holds the inputs of layers alone; computes every layer twice",
        *(trained(checkpoint_activations=on) for on in (False, True)),
    )
    yield Switch(
        "checkpoints on the host",
        "--extend.offload-activations",
        "--extend.no-offload-activations",
        HOST,
        *(trained(offload_activations=on) for on in (False, True)),
    )
    yield Switch(
        "tiled MLPs",
        "--extend.tile-mlps",
        "--extend.no-tile-mlps",
        "computes some tokens at a time",
        *(trained(tile_mlps=on) for on in (False, True)),
    )
    yield Switch(
        "kept ring outputs",
        ALWAYS_ON,
        ALWAYS_ON,
        "holds more, so that the ring runs once; longer without",
        *(planned(keep_ring=on) for on in (False, True)),
    )
    yield Switch(
        "all-gathered keys",
        "--extend.ring-schedule all_gather",
        "--extend.ring-schedule ring",
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
        yield from _model_states(trained)


def _model_states(trained: Callable[..., Setup]) -> Iterator[Switch]:
    """Where weights, gradients and optimizer states lie; DeepSpeed alone can move them."""
    yield Switch(
        "model states on the host",
        "--extend.offload",
        "--extend.no-offload",
        HOST,
        *(trained(offload=on) for on in (False, True)),
    )
    yield Switch(
        "ZeRO-3 instead of ZeRO-1",
        "--extend.zero-stage 3",
        "--extend.zero-stage 1",
        "divides weights and gradients, too; gathers those of a layer when it runs",
        *(trained(zero_stage=stage) for stage in (1, 3)),
    )
