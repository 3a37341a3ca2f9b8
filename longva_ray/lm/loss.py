"""Cross-entropy straight from hidden states: (L, D) and the output weight (V, D) -> one number.

The plain path writes the scores of all V words for all L tokens, several times over: at 32K tokens
of a 152K vocabulary one float32 copy is 18 GiB, and that term, not attention, is what limits a long
context first (footnote 1 of the paper). Here no more than one tile of scores exists at a time
(`lm.tiled_loss`, or Liger's fused kernel on CUDA).

The denominator is the number of labelled tokens in the whole group, so that loss and gradients
equal one process that holds everything, however unevenly labels are spread over ranks.

What it does not do: label smoothing, class weights, double backward. Under ZeRO-3 call it where the
weight is gathered, which is why `OutputLoss` is a module. Shapes: L tokens on this rank (any
leading dimensions are flattened), D width, V words.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
import torch.distributed as dist

from longva_ray.lm.right_tokens import right_tokens
from longva_ray.lm.tiled_loss import tiled_sum

logger = logging.getLogger(__name__)

Backend: TypeAlias = Literal["torch", "liger"]

LocalSum: TypeAlias = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, int], torch.Tensor
]


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
        tile_tokens: tokens of one tile; None fits `TILE_BYTES`.
        backend: "torch" is `lm.tiled_loss`, "liger" its fused CUDA kernel; None takes Liger on CUDA
            when it can be imported.

    Raises ValueError for shapes that do not fit or a backend that cannot run here.
    """
    _check(hidden, weight_VD, labels, bias_V)
    hidden_LD, labels_L = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    local_sum = _choose_local_sum(hidden.device.type, backend)
    if local_sum is tiled_sum and tile_tokens is not None:
        local_sum = functools.partial(tiled_sum, tile_tokens=tile_tokens)
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
    return with_value(loss_sum * factor.to(loss_sum.dtype), mean)


def with_value(differentiated: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Gradients of the first argument, value of the second: differentiate a share, report all."""
    result: torch.Tensor = _WithValue.apply(differentiated, value)
    return result


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
        self,
        hidden_BLD: torch.Tensor,
        labels_BL: torch.Tensor,
        denominator: int,
        *,
        judge: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """The loss; with `judge` also which labelled tokens of this rank are the likeliest: (1, L).
        Both in one call, since divided weights are here no longer."""
        loss = linear_cross_entropy(
            hidden_BLD,
            self.weight,
            labels_BL,
            bias_V=self.bias,
            group=self._group,
            denominator=denominator,
        )
        if not judge:
            return loss
        return loss, right_tokens(hidden_BLD, self.weight, labels_BL, self.bias)


class _WithValue(torch.autograd.Function):
    """`with_value` as torch wants it."""

    @staticmethod
    def forward(ctx: Any, differentiated: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad, None


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
    chosen: LocalSum = tiled_sum
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
