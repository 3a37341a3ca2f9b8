"""What a training step keeps of the language model's activations, and where.

    checkpoint_activations(model, keep_ring=True, offload=True)
    tile_mlps(model)                                            # lm.tiled_mlp: the other half

Checkpointing keeps two tensors of (L, D) for each layer: its input, and with `keep_ring` what the
ring computed in it (`ring.keep`). From a few hundred thousand tokens on they are the largest thing
on a GPU; `offload` moves both to pinned host memory in the forward pass and fetches them back, one
layer at a time, in the backward pass.

The copying is transformers' own (`activation_checkpointing_enable(offload=True)`, torch's
`save_on_cpu` underneath), on the compute stream. Trade-off: the step waits for the copies, 4 L D
itemsize bytes a layer over the bus, which grows with L while attention grows with its square.
What it does not do: overlap those copies with compute, offload weights or optimizer states
(DeepSpeed does).
Shapes: L tokens on this rank, D width.
"""

import functools
import logging
from typing import Any

import torch
from torch.autograd.graph import save_on_cpu
from transformers import PreTrainedModel

from longva_ray.ring.keep import keep_ring_forward

logger = logging.getLogger(__name__)


def checkpoint_activations(
    model: PreTrainedModel, *, keep_ring: bool = True, offload: bool = False
) -> None:
    """Checkpoint every decoder layer of `model`, in place; gradients are the same, on a CPU
    bit for bit (flash kernels on CUDA add up their gradients in no fixed order).

    A vision tower is left alone. Checkpointing works in training mode only (`model.train()`).

    Args:
        keep_ring: remember the ring's output of each layer, so that recomputing does not
            communicate.
        offload: hold what is kept in host memory. Without an accelerator it is there already, so
            nothing is moved, and the log says so.
    """
    if offload and torch.accelerator.current_accelerator() is None:
        logger.info("checkpoints are not offloaded: without an accelerator they are on the host")
        offload = False
    arguments: dict[str, Any] = {"use_reentrant": False}
    if keep_ring:
        hooks = save_on_cpu(pin_memory=True) if offload else None
        arguments["context_fn"] = functools.partial(keep_ring_forward, hooks)
    model.get_decoder().activation_checkpointing_enable(arguments, offload=offload)
