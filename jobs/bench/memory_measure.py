"""Measured peak memory of a training step: the check on `planner.activations`, which runs nothing.

    measured_activations(setup, config, tokens)   ->   bytes

On a CPU every tensor that torch makes is counted while it lives (`LiveBytes`); on CUDA the
allocator is asked. What the count does not see: what kernels allocate inside themselves, the slack
of an allocator, buffers of communication libraries. One process, so a ring of one.
"""

import weakref
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AutoModelForCausalLM, PreTrainedModel

from longva_ray.lm.loss import linear_cross_entropy
from longva_ray.lm.tiled_mlp import tile_mlps
from longva_ray.planner.setup import Setup
from longva_ray.ring.attention import Ring
from longva_ray.ring.hf import NAME, register, ring_inputs
from longva_ray.ring.layout import ZigzagLayout
from longva_ray.train.activations import checkpoint_activations


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are made while it is entered, each storage once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._seen: Any = WeakIdKeyDictionary()

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def ignore(self, tensors: Any) -> None:
        """Leave out tensors that were there before, such as the weights."""
        for tensor in tensors:
            self._seen[tensor.untyped_storage()] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen[storage] = True
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size


def measured_activations(setup: Setup, config: Any, tokens: int, *, device: str = "cpu") -> int:
    """Peak bytes of a step on `device` beyond weights and gradients, which are there before.

    `config` is the transformers config that `setup.model` was made of; weights are random.
    """
    torch.manual_seed(0)
    register()
    dtype = torch.float32 if setup.train.dtype == "float32" else torch.bfloat16
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=NAME)
    model.train()
    if setup.train.checkpoint_activations:
        offload = setup.train.offload_activations
        checkpoint_activations(model, keep_ring=setup.keep_ring, offload=offload)
    if setup.train.tile_mlps:
        tile_mlps(model, tile_tokens=setup.tile_tokens, min_tokens=setup.tile_from)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ids = torch.randint(config.vocab_size, (1, tokens), device=device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        _step(model, ids, setup)
        return torch.cuda.max_memory_allocated() - before
    with LiveBytes() as memory:
        memory.ignore(
            [*model.buffers(), *model.parameters(), *(p.grad for p in model.parameters())]
        )
        _step(model, ids, setup)
    return memory.peak


def _step(model: PreTrainedModel, ids: torch.Tensor, setup: Setup) -> None:
    layout = ZigzagLayout(document_lengths=(ids.shape[1],), world_size=1)
    inputs = ring_inputs(model, Ring(layout=layout, schedule=setup.train.ring_schedule))
    hidden = model.get_decoder()(input_ids=ids, **inputs).last_hidden_state
    weight = model.get_output_embeddings().weight
    if setup.tiled_loss:
        linear_cross_entropy(hidden, weight, ids).backward()
    else:
        scores = torch.nn.functional.linear(hidden, weight).float()
        torch.nn.functional.cross_entropy(scores[0], ids[0]).backward()
