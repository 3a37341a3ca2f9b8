"""The tiled loss over processes: value and gradients of one process, however labels are spread."""

import pytest
import torch
import torch.distributed as dist
from ring_reference import relative_error
from torch.nn import functional as F
from worker_pool import WorkerPool

from longva_ray.lm.loss import linear_cross_entropy
from longva_ray.ring.layout import IGNORE_INDEX, ZigzagLayout

TOKENS, WIDTH, WORDS = 45, 8, 31


def inputs(labels_kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(1, TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    weight = torch.randn(WORDS, WIDTH, generator=generator, dtype=torch.float64)
    labels = torch.randint(WORDS, (1, TOKENS), generator=generator)
    if labels_kind == "only at the start":  # all other ranks have none
        labels[:, 5:] = IGNORE_INDEX
    elif labels_kind == "none":
        labels[:] = IGNORE_INDEX
    return hidden, weight, labels


def share(group: dist.ProcessGroup, kind: str, gradients: str) -> tuple[torch.Tensor, ...]:
    """Job: the loss, the gradient of the local hidden states, the reduced one of the weight."""
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    layout = ZigzagLayout(document_lengths=(TOKENS,), world_size=size)
    hidden, weight, labels = inputs(kind)
    hidden = layout.split(hidden, rank, dim=1, pad_value=5.0).requires_grad_()
    labels = layout.split(labels, rank, dim=1, pad_value=IGNORE_INDEX)
    weight.requires_grad_()
    loss = linear_cross_entropy(
        hidden, weight, labels, group=group, gradients=gradients, tile_tokens=4
    )
    loss.backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    dist.all_reduce(weight.grad, group=group)
    if gradients == "mean":  # what DDP, FSDP and DeepSpeed do
        weight.grad /= size
        hidden.grad /= size
    return loss.detach(), hidden.grad, weight.grad


@pytest.mark.parametrize("gradients", ["mean", "sum"])
@pytest.mark.parametrize("kind", ["everywhere", "only at the start", "none"])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_equals_one_process(pool: WorkerPool, world: int, kind: str, gradients: str) -> None:
    hidden, weight, labels = inputs(kind)
    hidden.requires_grad_()
    weight.requires_grad_()
    scores = F.linear(hidden, weight).flatten(0, 1)
    count = (labels != IGNORE_INDEX).sum().clamp(min=1)
    wanted = F.cross_entropy(scores, labels.flatten(), reduction="sum") / count
    grads = torch.autograd.grad(wanted, (hidden, weight))

    losses, hidden_grads, weight_grads = zip(*pool.run(share, world, kind, gradients), strict=True)
    layout = ZigzagLayout(document_lengths=(TOKENS,), world_size=world)
    assert {float(loss) for loss in losses} == {float(losses[0])}
    assert relative_error(losses[0], wanted.detach()) <= 1e-12
    assert relative_error(layout.merge(hidden_grads, dim=1), grads[0]) <= 1e-12
    assert all(relative_error(g, grads[1]) <= 1e-12 for g in weight_grads)
