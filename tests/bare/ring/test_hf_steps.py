"""A training step of an unmodified Qwen2 or Llama on a ring equals that of one process."""

import functools
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from ring_reference import relative_error
from torch.nn import functional as F
from two_layers import LAYERS, WORDS, tiny
from worker_pool import WorkerPool

from longva_ray.lm.loss import linear_cross_entropy
from longva_ray.ring.attention import Ring
from longva_ray.ring.hf import NAME, register, ring_inputs
from longva_ray.ring.keep import keep_ring_forward
from longva_ray.ring.layout import IGNORE_INDEX, ZigzagLayout, next_token_labels
from longva_ray.ring.mesh import RingMesh, make_mesh

# What each data-parallel ring reads: packed documents of different lengths, none divisible by
# anything.
SEQUENCES = ((13, 1, 24), (30, 11))

TOLERANCE = 1e-5


def token_ids(documents: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(documents))
    return torch.randint(WORDS, (1, sum(documents)), generator=generator)


class Result(NamedTuple):
    loss: float
    logits: list[torch.Tensor]
    """One sequence each."""
    grads: dict[str, torch.Tensor]


@functools.cache
def one_process(family: str, num_sequences: int) -> Result:
    """Each document run by itself under SDPA: the most literal reading of packing."""
    model, sequences = tiny(family), SEQUENCES[:num_sequences]
    losses, logits, count = [], [], 0
    for documents in sequences:
        parts = [model(ids).logits for ids in token_ids(documents).split(documents, dim=1)]
        logits.append(torch.cat([part.detach() for part in parts], dim=1))
        for part, ids in zip(parts, token_ids(documents).split(documents, dim=1), strict=True):
            losses.append(F.cross_entropy(part[0, :-1], ids[0, 1:], reduction="sum"))
            count += ids.shape[1] - 1
    loss = torch.stack(losses).sum() / count
    loss.backward()
    return Result(loss.item(), logits, {n: p.grad for n, p in model.named_parameters()})


def mesh_of(group: dist.ProcessGroup, data_size: int, ring_size: int) -> RingMesh:
    if dist.get_world_size(group) == dist.get_world_size():
        return make_mesh(ring_size=ring_size, data_size=data_size)
    assert 1 in (data_size, ring_size)
    rank = dist.get_rank(group)
    return RingMesh(
        data_size=data_size,
        data_rank=rank if data_size > 1 else 0,
        ring_size=ring_size,
        ring_rank=rank if ring_size > 1 else 0,
        ring_group=group if ring_size > 1 else None,
        world_group=group,
    )


def plain_loss(
    logits: torch.Tensor, labels: torch.Tensor, group: dist.ProcessGroup | None
) -> torch.Tensor:
    """The local share of the mean; shares add up to the loss."""
    count = (labels != IGNORE_INDEX).sum()
    dist.all_reduce(count, group=group)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / count


def train_step(
    group: dist.ProcessGroup,
    family: str,
    data_size: int,
    ring_size: int,
    schedule: str,
    checkpointing: str,
    tiled: bool,
) -> tuple[float, int, torch.Tensor, dict[str, torch.Tensor]]:
    """Job: loss, which sequence, local logits, gradients summed over all ranks."""
    register()
    model = tiny(family, NAME)
    mesh = mesh_of(group, data_size, ring_size)
    if checkpointing != "off":
        kwargs: dict[str, Any] = {"use_reentrant": False}
        if checkpointing == "kept":
            kwargs["context_fn"] = keep_ring_forward
        model.activation_checkpointing_enable(kwargs)
    documents = SEQUENCES[mesh.data_rank]
    layout = ZigzagLayout(document_lengths=documents, world_size=ring_size)
    ring = Ring(layout=layout, group=mesh.ring_group, schedule=schedule)
    ids = token_ids(documents)
    labels = layout.split(next_token_labels(ids, layout), ring.rank, dim=1, pad_value=IGNORE_INDEX)
    local_ids = layout.split(ids, ring.rank, dim=1, pad_value=0)
    hidden = model.model(input_ids=local_ids, **ring_inputs(model, ring)).last_hidden_state
    logits = model.lm_head(hidden)
    if tiled:
        weight = model.lm_head.weight
        loss = linear_cross_entropy(
            hidden, weight, labels, group=mesh.world_group, gradients="sum", tile_tokens=5
        )
        whole_loss = loss.item()
    else:
        loss = plain_loss(logits, labels, mesh.world_group)
        total = loss.detach().clone()
        dist.all_reduce(total, group=mesh.world_group)
        whole_loss = total.item()
    loss.backward()
    grads = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        dist.all_reduce(parameter.grad, group=mesh.world_group)
        grads[name] = parameter.grad
    return whole_loss, mesh.data_rank, logits.detach(), grads if dist.get_rank(group) == 0 else {}


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize(("data_size", "ring_size"), [(1, 2), (2, 1), (2, 2)], ids=lambda n: str(n))
@pytest.mark.parametrize("schedule", ["ring", "all_gather"])
@pytest.mark.parametrize("checkpointing", ["off", "plain", "kept"])
@pytest.mark.parametrize("tiled", [True, False], ids=["tiled", "untiled"])
def test_training_step_equals_one_process(
    pool: WorkerPool,
    family: str,
    data_size: int,
    ring_size: int,
    schedule: str,
    checkpointing: str,
    tiled: bool,
) -> None:
    wanted = one_process(family, data_size)
    world = data_size * ring_size
    results = pool.run(
        train_step, world, family, data_size, ring_size, schedule, checkpointing, tiled
    )
    assert all(abs(loss - wanted.loss) <= TOLERANCE * wanted.loss for loss, *_ in results)
    for sequence, documents in enumerate(SEQUENCES[:data_size]):
        layout = ZigzagLayout(document_lengths=documents, world_size=ring_size)
        shards = [logits for _, row, logits, _ in results if row == sequence]
        assert relative_error(layout.merge(shards, dim=1), wanted.logits[sequence]) <= TOLERANCE
    grads = results[0][3]
    assert grads.keys() == wanted.grads.keys()
    errors = {name: relative_error(grads[name], wanted.grads[name]) for name in grads}
    assert max(errors.values()) <= TOLERANCE, errors


def count_transfers(group: dist.ProcessGroup, schedule: str, checkpointing: str) -> int:
    """Job: how often this rank communicates for attention in one training step."""
    names = ("batch_isend_irecv", "all_gather_single", "reduce_scatter_single")
    originals = {name: getattr(dist, name) for name in names}
    calls = 0

    def counting(name: str) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            return originals[name](*args, **kwargs)

        return wrapper

    for name in names:
        setattr(dist, name, counting(name))
    try:
        train_step(group, "qwen2", 1, 2, schedule, checkpointing, True)
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)
    return calls


@pytest.mark.parametrize(
    ("schedule", "forward", "backward"), [("ring", 1, 1 + 2), ("all_gather", 1, 2)]
)
def test_checkpointing_does_not_run_the_ring_twice(
    pool: WorkerPool, schedule: str, forward: int, backward: int
) -> None:
    """Two ranks: one exchange of keys each way, and two hops that bring their gradients home."""
    once = [LAYERS * (forward + backward)] * 2
    twice = [LAYERS * (2 * forward + backward)] * 2
    assert pool.run(count_transfers, 2, schedule, "off") == once
    assert pool.run(count_transfers, 2, schedule, "kept") == once
    assert pool.run(count_transfers, 2, schedule, "plain") == twice
