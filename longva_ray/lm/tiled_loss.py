"""Cross-entropy in tiles of tokens, gradients included: (L, D) and (V, D) -> the sum of losses.

A tile of tokens is scored, turned into its gradients, and forgotten, so no more than one tile of
scores ever exists and the backward pass has nothing left to compute. Tokens without a label are not
scored.

Trade-off: gradients are computed in the forward pass and kept until the backward pass, that of the
weight in float32. torch's own chunked `linear_cross_entropy` is not used: it needs torch 2.13, and
on a CPU it takes 1.5 to 3 times as long (2048 tokens, D 256, V 8192, and 1024 tokens, D 512, V
32768; float32), or 6 times where a quarter of the tokens is labelled.
Shapes: L tokens on this rank, D width, V words, S tokens of one tile.

Source: https://arxiv.org/abs/2410.10989 (section 3, fused linear cross-entropy), written anew.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

TILE_BYTES = 2**30
"""Size of one tile of float32 scores: large enough to keep a GPU busy, small beside a layer's
activations."""


def tiled_sum(
    hidden_LD: torch.Tensor,
    weight_VD: torch.Tensor,
    labels_L: torch.Tensor,
    bias_V: torch.Tensor | None,
    ignore_index: int,
    tile_tokens: int | None = None,
) -> torch.Tensor:
    """Sum of the local losses, tile by tile."""
    size = tile_tokens or max(1, TILE_BYTES // (4 * weight_VD.shape[0]))
    labelled = (labels_L != ignore_index).nonzero().squeeze(1)
    total: torch.Tensor = _TiledSum.apply(
        hidden_LD, weight_VD, bias_V, labels_L, labelled, size, torch.is_grad_enabled()
    )
    return total


class _TiledSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_LD: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        labels_L: torch.Tensor,
        labelled: torch.Tensor,
        tile_tokens: int,
        grad_enabled: bool,
    ) -> torch.Tensor:
        exact = torch.promote_types(hidden_LD.dtype, torch.float32)
        wanted = [grad_enabled and need for need in ctx.needs_input_grad[:3]]
        inputs = (hidden_LD, weight_VD, bias_V)
        # The gradient of a token is written once, those of weight and bias are sums over all tiles.
        dtypes = (hidden_LD.dtype, exact, exact)
        grad_hidden_LD, grad_weight_VD, grad_bias_V = (
            torch.zeros_like(x, dtype=dtype) if need and x is not None else None
            for x, dtype, need in zip(inputs, dtypes, wanted, strict=True)
        )
        total = hidden_LD.new_zeros((), dtype=torch.float64)
        for rows in torch.split(labelled, tile_tokens):
            total += _add_tile(
                hidden_LD[rows],
                weight_VD,
                bias_V,
                labels_L[rows],
                rows,
                (grad_hidden_LD, grad_weight_VD, grad_bias_V),
            )
        ctx.grads = (grad_hidden_LD, grad_weight_VD, grad_bias_V)
        ctx.dtypes = tuple(None if x is None else x.dtype for x in inputs)
        return total.to(exact)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        assert ctx.grads is not None, (
            "the backward pass of this loss can run once: it scales gradients in place"
        )
        grads, ctx.grads = ctx.grads, None
        scaled = (
            None if g is None else g.mul_(grad).to(dtype)
            for g, dtype in zip(grads, ctx.dtypes, strict=True)
        )
        return (*scaled, None, None, None, None)


def _add_tile(
    hidden_SD: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    labels_S: torch.Tensor,
    rows: torch.Tensor,
    grads: tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None],
) -> torch.Tensor:
    """Loss of one tile (float64 scalar); adds its gradients to those that are wanted.

    The scores become the softmax, then its gradient (softmax - one-hot), in place: one tile, once.
    """
    grad_hidden_LD, grad_weight_VD, grad_bias_V = grads
    exact = torch.promote_types(hidden_SD.dtype, torch.float32)
    scores_SV = torch.nn.functional.linear(hidden_SD, weight_VD, bias_V).to(exact)
    label_column = labels_S[:, None]
    label_score_S1 = scores_SV.gather(1, label_column)
    top_S1 = scores_SV.amax(1, keepdim=True)
    total_S1 = scores_SV.sub_(top_S1).exp_().sum(1, keepdim=True)
    loss = (total_S1.log() + top_S1 - label_score_S1).sum(dtype=torch.float64)
    if all(grad is None for grad in grads):
        return loss
    grad_scores_SV = scores_SV.div_(total_S1)
    grad_scores_SV.scatter_add_(1, label_column, torch.full_like(label_score_S1, -1))
    if grad_bias_V is not None:
        grad_bias_V += grad_scores_SV.sum(0)
    grad_scores_SV = grad_scores_SV.to(hidden_SD.dtype)
    if grad_hidden_LD is not None:
        grad_hidden_LD[rows] = grad_scores_SV @ weight_VD
    if grad_weight_VD is not None:
        _add_product(grad_weight_VD, grad_scores_SV.T, hidden_SD)
    return loss


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """total += left @ right, in the dtype of `total`."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
