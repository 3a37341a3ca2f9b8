"""Forward results survive checkpointing: same gradients, half the work, nothing left behind."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from ring_reference import random_inputs
from torch.utils.checkpoint import checkpoint

from longva_ray.ring import keep
from longva_ray.ring.attention import Ring, ring_attention
from longva_ray.ring.cpu import AtenCpu
from longva_ray.ring.keep import keep_ring_forward
from longva_ray.ring.layout import ZigzagLayout

RING = Ring(layout=ZigzagLayout(document_lengths=(9, 7), world_size=1))


def layer(x: torch.Tensor) -> torch.Tensor:
    """Two attentions and something between them, as a checkpointed region would have."""
    y = ring_attention(x * 1.5, x.sin(), x, RING)
    return ring_attention(y.tanh(), x, y * y, RING) + x


def checkpointed(x: torch.Tensor) -> torch.Tensor:
    return checkpoint(layer, x, use_reentrant=False, context_fn=keep_ring_forward)


@pytest.fixture
def forward_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one entry with each forward call of the block kernel."""
    calls: list[int] = []
    original = AtenCpu.forward

    def counted(self: AtenCpu, *args: object, **kwargs: object) -> object:
        calls.append(1)
        return original(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(AtenCpu, "forward", counted)
    return calls


def input_and_gradient(function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    x = random_inputs(16)[0].requires_grad_()
    function(function(x)).square().sum().backward()
    assert x.grad is not None
    return x.grad


def test_gradients_equal_and_the_ring_runs_once(forward_calls: list[int]) -> None:
    calls = forward_calls
    wanted = input_and_gradient(layer)
    assert len(calls) == 4
    calls.clear()
    plain = input_and_gradient(lambda x: checkpoint(layer, x, use_reentrant=False))
    assert len(calls) == 8
    calls.clear()
    kept = input_and_gradient(checkpointed)
    assert len(calls) == 4
    assert torch.equal(kept, wanted)
    assert torch.equal(plain, wanted)


def test_interleaved_graphs_do_not_mix() -> None:
    """Two micro-batches forward, then both backward, oldest first."""
    wanted, got = [], []
    for function, grads in ((layer, wanted), (checkpointed, got)):
        inputs = [random_inputs(16, seed=seed)[0].requires_grad_() for seed in (1, 2)]
        losses = [function(x).square().sum() for x in inputs]
        for loss in losses:
            loss.backward()
        grads.extend(x.grad for x in inputs)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_a_graph_may_be_walked_twice() -> None:
    x = random_inputs(16)[0].requires_grad_()
    loss = checkpointed(x).square().sum()
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    (second,) = torch.autograd.grad(loss, x)
    assert torch.equal(first, second)


@pytest.mark.parametrize("walk", [True, False], ids=["after backward", "graph dropped"])
def test_nothing_outlives_the_graph(walk: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Freed by reference counting alone: the collector is off, so a cycle would show."""
    kept: list[weakref.ref[torch.Tensor]] = []
    original = keep._Region.result_of

    def watched(self: keep._Region, compute: Callable[[], keep.OutAndLse]) -> keep.OutAndLse:
        result = original(self, compute)
        kept.append(weakref.ref(self._results[-1][0]))
        return result

    monkeypatch.setattr(keep._Region, "result_of", watched)
    gc.collect()
    gc.disable()
    try:
        x = random_inputs(16)[0].requires_grad_()
        loss = checkpointed(x).square().sum()
        assert [ref() is not None for ref in kept] == [True, True]
        if walk:
            loss.backward()
        else:
            del loss
        assert [ref() for ref in kept if ref() is not None] == []
    finally:
        gc.enable()


def test_without_gradients_nothing_is_kept() -> None:
    with torch.no_grad():
        out = checkpointed(random_inputs(16)[0])
    assert keep._region.get() is None
    assert out.grad_fn is None
