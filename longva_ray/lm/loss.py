"""Cross-entropy straight from hidden states: (L, D) and the output weight (V, D) -> one number.

The plain path writes the scores of all V words for all L tokens, several times over: at 32K tokens
of a 152K vocabulary one float32 copy is 18 GiB, and that term, not attention, is what limits a long
context first (footnote 1 of the paper). Here a tile of tokens is scored, turned into its gradients,
and forgotten, so no more than one tile of scores ever exists and the backward pass has nothing left
to compute. Tokens without a label are not scored at all.

The denominator is the number of labelled tokens in the whole group, so that loss and gradients
equal one process that holds everything, however unevenly labels are spread over ranks.

Trade-off: gradients are computed in the forward pass and kept, the one of the weight in float32,
until the backward pass. What it does not do: label smoothing, class weights, double backward. Under
ZeRO-3 call it where the weight is gathered. Shapes: L tokens on this rank (any leading dimensions
are flattened), D width, V words, S tokens of one tile.

Source: https://arxiv.org/abs/2410.10989 (section 3, fused linear cross-entropy), written anew.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

logger = logging.getLogger(__name__)


Backend: TypeAlias = Literal["torch", "liger"]


LocalSum: TypeAlias = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, int], torch.Tensor
]


TILE_BYTES = 2**30
"""Size of one tile of float32 scores: large enough to keep a GPU busy, small beside a layer's
activations.
"""


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight_VD: torch.Tensor,
    labels: torch.Tensor,
    *,
    bias_V: torch.Tensor | None = None,
    ignore_index: int = -100,
    group: dist.ProcessGroup | None = None,
    gradients: Literal["mean", "sum"] = "mean",
    denominator: torch.Tensor | int | None = None,
    tile_tokens: int | None = None,
    backend: Backend | None = None,
) -> torch.Tensor:
    """Mean cross-entropy of `labels` (...) under `hidden` (..., D): a scalar, equal on all ranks.

    Labels are already shifted (`ring.layout.next_token_labels`); a rank may have none. With no
    label on any rank the loss and its gradients are 0.

    Args:
        group: the ranks that hold different tokens of the same step (ring x data); all must call.
            None: this process alone.
        gradients: what becomes of the ranks' gradients afterwards. "mean" for DDP, FSDP and
            DeepSpeed, which average them over `group`; "sum" for a plain all-reduce. Either way
            the outcome is the gradient of the returned loss.
        denominator: labelled tokens to divide by, when the mean is over more than this call (under
            gradient accumulation: all micro-batches of all ranks). None counts the labels of this
            call over `group`.
        tile_tokens: tokens scored at once; None fits `TILE_BYTES`.
        backend: "torch" is the code here, "liger" its fused CUDA kernel; None takes Liger on CUDA
            when it can be imported.

    Raises ValueError for shapes that do not fit or a backend that cannot run here.
    """
    _check(hidden, weight_VD, labels, bias_V)
    hidden_LD, labels_L = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    local_sum = _choose_local_sum(hidden.device.type, backend)
    if local_sum is _tiled_sum and tile_tokens is not None:
        local_sum = functools.partial(_tiled_sum, tile_tokens=tile_tokens)
    loss_sum = local_sum(hidden_LD, weight_VD, labels_L, bias_V, ignore_index)

    totals = torch.stack([loss_sum.detach().double(), (labels_L != ignore_index).sum().double()])
    ranks = 1
    if group is not None:
        ranks = dist.get_world_size(group)
        dist.all_reduce(totals, group=group)
    count = totals[1] if denominator is None else torch.as_tensor(denominator).to(totals)
    count = count.clamp(min=1)
    mean = (totals[0] / count).to(loss_sum.dtype)
    factor = (ranks if gradients == "mean" else 1) / count
    result: torch.Tensor = _WithValue.apply(loss_sum * factor.to(loss_sum.dtype), mean)
    return result


class _WithValue(torch.autograd.Function):
    """Gradients of the first argument, value of the second: differentiate a share, report all."""

    @staticmethod
    def forward(ctx: Any, differentiated: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad, None


def _tiled_sum(
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


def _liger_sum(
    hidden_LD: torch.Tensor,
    weight_VD: torch.Tensor,
    labels_L: torch.Tensor,
    bias_V: torch.Tensor | None,
    ignore_index: int,
) -> torch.Tensor:
    """The same by Liger's fused kernel, which computes gradients in its forward pass too."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    loss: torch.Tensor = liger_fused_linear_cross_entropy(
        hidden_LD,
        weight_VD,
        labels_L,
        bias=bias_V,
        ignore_index=ignore_index,
        reduction="sum",
        accum_dtype=torch.float32,
    )
    return loss.float()


@functools.cache
def _choose_local_sum(device_type: str, backend: Backend | None) -> LocalSum:
    """Decided once a process for each device; `backend` overrides the choice."""
    chosen: LocalSum = _tiled_sum
    if backend == "liger" and device_type != "cuda":
        raise ValueError(f"backend 'liger' needs CUDA tensors, got {device_type}; use 'torch'")
    if backend == "liger" or (backend is None and device_type == "cuda"):
        try:
            import liger_kernel.transformers.functional  # noqa: F401

            chosen = _liger_sum
        except ImportError as error:
            if backend == "liger":
                raise ValueError(
                    f"backend 'liger' cannot be imported ({error}); pip install 'longva-ray[gpu]', "
                    "or use 'torch'"
                ) from error
    logger.info("cross-entropy on %s: %s", device_type, chosen.__name__.strip("_"))
    return chosen


def _check(
    hidden: torch.Tensor, weight_VD: torch.Tensor, labels: torch.Tensor, bias_V: torch.Tensor | None
) -> None:
    """Raise ValueError unless the shapes fit."""
    fits = hidden.shape[:-1] == labels.shape and hidden.shape[-1] == weight_VD.shape[-1]
    if not fits or (bias_V is not None and bias_V.shape != weight_VD.shape[:1]):
        bias = None if bias_V is None else tuple(bias_V.shape)
        raise ValueError(
            "want hidden (..., D), weight (V, D), labels (...) and bias (V,), got "
            f"{tuple(hidden.shape)}, {tuple(weight_VD.shape)}, {tuple(labels.shape)} and {bias}"
        )


class OutputLoss(torch.nn.Module):
    """The output layer and the loss in one: (1, L, D) -> a scalar, equal on all ranks.

    Shares its parameters with the layer that it stands for.
    """

    def __init__(self, head: torch.nn.Module, group: dist.ProcessGroup | None) -> None:
        super().__init__()
        assert isinstance(head, torch.nn.Linear)
        self.weight, self.bias = head.weight, head.bias
        self._group = group

    def forward(
        self, hidden_BLD: torch.Tensor, labels_BL: torch.Tensor, denominator: int
    ) -> torch.Tensor:
        return linear_cross_entropy(
            hidden_BLD,
            self.weight,
            labels_BL,
            bias_V=self.bias,
            group=self._group,
            denominator=denominator,
        )
