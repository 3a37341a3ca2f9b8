"""Measured peak memory of a training step: the check on `planner.activations`, which runs nothing.

    measured_activations(setup, config, tokens)                   ->   bytes
    measured_activations(setup, config, tokens, device="meta")    ->   the same for a GPU

On a CPU every tensor that torch makes is counted while it lives (`LiveBytes`); on CUDA the
allocator is asked. On "meta" tensors have shapes and no content, so the real size of a model and a
million tokens are counted in seconds, through the attention kernel of a GPU. What the count does
not see: what kernels allocate inside themselves, the slack of an allocator, buffers of
communication libraries. One process, so a ring of one.
"""

import functools
import weakref
from typing import Any, Self
from unittest.mock import patch

import torch
from torch.fx.experimental import _config
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from longva_ray.lm.fused import fuse
from longva_ray.lm.loss import linear_cross_entropy
from longva_ray.lm.tiled_mlp import tile_mlps
from longva_ray.planner.setup import Setup
from longva_ray.ring import choose
from longva_ray.ring.attention import Ring
from longva_ray.ring.cudnn import Cudnn
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


@patch.dict(choose.KERNELS, {"meta": {"cudnn": Cudnn}})
def measured_activations(setup: Setup, config: Any, tokens: int, *, device: str = "cpu") -> int:
    """Peak bytes of a step on `device` beyond weights and gradients, which are there before.

    `config` is the transformers config that `setup.model` was made of; weights are random. "meta"
    takes Qwen2 alone.
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
    if setup.fused:
        _fuse(model, device)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ids = torch.randint(config.vocab_size, (1, tokens), device=device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        _step(model, ids, setup)
        return torch.cuda.max_memory_allocated() - before
    fx_config: Any = _config  # which torch fills in when it is imported
    all_labelled = fx_config.patch(meta_nonzero_assume_all_nonzero=True)
    with all_labelled, LiveBytes() as memory:
        memory.ignore(
            [*model.buffers(), *model.parameters(), *(p.grad for p in model.parameters())]
        )
        _step(model, ids, setup)
    return memory.peak


def _fuse(model: PreTrainedModel, device: str) -> None:
    fuse(model)
    if device == "cuda":
        return
    for module in model.modules():
        if isinstance(module, Qwen2RMSNorm):
            module.forward = functools.partial(_AsFused.apply, module.weight)  # type: ignore[method-assign]


class _AsFused(torch.autograd.Function):
    """Keeps and makes what torch's fused norm does on CUDA, and computes nothing."""

    @staticmethod
    def forward(ctx: Any, weight_D: torch.Tensor, x_BLD: torch.Tensor) -> torch.Tensor:
        rstd_BL = x_BLD.new_empty(x_BLD.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(x_BLD, weight_D, rstd_BL)
        return torch.zeros_like(x_BLD)

    @staticmethod
    def backward(ctx: Any, grad_BLD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x_BLD, weight_D, _ = ctx.saved_tensors
        return torch.zeros_like(weight_D), torch.zeros_like(x_BLD)


def _step(model: PreTrainedModel, ids: torch.Tensor, setup: Setup) -> None:
    """As they are meant: all scores are held until the step ends, hidden states are not."""
    weight = model.get_output_embeddings().weight
    if setup.tiled_loss:
        linear_cross_entropy(_hidden(model, ids, setup), weight, ids).backward()
    else:
        scores = torch.nn.functional.linear(_hidden(model, ids, setup), weight).float()
        torch.nn.functional.cross_entropy(scores[0], ids[0]).backward()


def _hidden(model: PreTrainedModel, ids: torch.Tensor, setup: Setup) -> torch.Tensor:
    layout = ZigzagLayout(document_lengths=(ids.shape[1],), world_size=1)
    inputs = ring_inputs(model, Ring(layout=layout, schedule=setup.train.ring_schedule))
    if ids.is_meta:  # transformers would look at the positions to make a mask
        inputs["attention_mask"] = {"full_attention": None}
    hidden: torch.Tensor = model.get_decoder()(input_ids=ids, **inputs).last_hidden_state
    return hidden
