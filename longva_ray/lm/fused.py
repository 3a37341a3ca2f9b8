"""Norms and the rotary embedding of Qwen2- and Llama-shaped models, without their copies.

    fuse(model)       once, after loading; says in the log what it changed

Transformers computes a norm in float32, and its backward pass keeps two float32 copies of the
input: with both norms of a layer in their backward pass, 36 bytes a token and unit of width, more
than anything else that a long step holds. Torch's fused `rms_norm` keeps the input and one number a
token. Transformers' rotary embedding makes five temporary tensors of the size of the queries; the
one here makes its result and no other, forward and backward.

Both give what the originals give. In bfloat16 they round less often: a norm multiplies by its
weight before it rounds, and a rotation rounds its sum once less.

Norms are changed in this model alone. The rotary embedding is a function in a module of
transformers, so it is replaced there, for every model of that family in this process. Transformers'
own extension point for both (`use_kernels`) fetches kernels from the hub, and those of the rotary
embedding have no backward pass.

What it does not do: the MLP. Torch has no fused SwiGLU, and `lm.tiled_mlp` already bounds its
memory. On a CPU torch has no fused norm either: results are the same, but nothing is saved. Shapes:
B batch, N heads, L tokens, H head dimension, D width.
"""

import functools
import logging
import sys
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2RMSNorm

logger = logging.getLogger(__name__)

_NORMS, _ATTENTIONS = (Qwen2RMSNorm, LlamaRMSNorm), (Qwen2Attention, LlamaAttention)


def fuse(model: PreTrainedModel) -> None:
    """Replace the norms and the rotary embedding of the decoder, in place.

    A model of another family keeps what it has, and the log says so.
    """
    modules = list(model.get_decoder().modules())
    norms = [module for module in modules if isinstance(module, _NORMS)]
    for norm in norms:
        norm.forward = functools.partial(fused_norm, norm)  # type: ignore[method-assign]
    families = {type(module).__module__ for module in modules if isinstance(module, _ATTENTIONS)}
    for family in families:
        sys.modules[family].apply_rotary_pos_emb = rotate  # type: ignore[attr-defined]
    if norms and families:
        logger.info("%d norms and the rotary embedding run fused", len(norms))
    else:
        logger.info(
            "%s keeps its own norms and rotary embedding: only those of Qwen2 and Llama are known",
            type(model).__name__,
        )


def fused_norm(norm: nn.Module, x_BLD: torch.Tensor) -> torch.Tensor:
    """What stands in for `norm.forward`: (B, L, D) -> (B, L, D)."""
    weight: Any = norm.weight
    return nn.functional.rms_norm(x_BLD, weight.shape, weight, norm.variance_epsilon)  # type: ignore[arg-type]


def rotate(
    q_BNLH: torch.Tensor,
    k_BMLH: torch.Tensor,
    cos_BLH: torch.Tensor,
    sin_BLH: torch.Tensor,
    unsqueeze_dim: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What stands in for transformers' `apply_rotary_pos_emb`."""
    cos, sin = cos_BLH.unsqueeze(unsqueeze_dim), sin_BLH.unsqueeze(unsqueeze_dim)
    return _Rotate.apply(q_BNLH, cos, sin), _Rotate.apply(k_BMLH, cos, sin)


class _Rotate(torch.autograd.Function):
    """x1, x2 (halves of H)  ->  x1 cos1 - x2 sin1, x2 cos2 + x1 sin2."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        sin1, sin2 = sin.chunk(2, dim=-1)
        return _mix(x, cos, -1, sin1, sin2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        sin1, sin2 = sin.chunk(2, dim=-1)
        return _mix(grad, cos, 1, sin2, sin1), None, None


def _mix(
    x: torch.Tensor, cos: torch.Tensor, sign: int, sin_a: torch.Tensor, sin_b: torch.Tensor
) -> torch.Tensor:
    """x1 cos1 + sign x2 sin_a, x2 cos2 - sign x1 sin_b: one tensor, written in place."""
    out = x * cos
    (x1, x2), (out1, out2) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    out1.addcmul_(x2, sin_a, value=sign)
    out2.addcmul_(x1, sin_b, value=-sign)
    return out
