"""What the flash-attn kernel passes to the package, and whether the package still takes it."""

import inspect
from typing import Any

import pytest
import torch
from block_reference import BLOCKS, SCALE

from longva_ray.ring.flash_package import BACKWARD, FORWARD, FlashPackage
from longva_ray.ring.kernel import Saved


class Recorder:
    """Stands in for the package: notes each call and returns tensors of the right shapes."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            q = args[0]
            lse = q.new_zeros((q.shape[1], q.shape[0]) if q.dim() == 3 else q.shape[:3:2])
            return q, lse, None, None

        return call


def record(name: str) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """The calls of one forward and one backward pass."""
    block, recorder = BLOCKS[name], Recorder()
    shapes = [
        (2, n, starts[-1], 8) for n, starts in ((4, block.query_starts), (2, block.key_starts))
    ]
    q, k = (torch.zeros(shape, dtype=torch.bfloat16) for shape in shapes)
    kernel = FlashPackage(recorder)
    kernel.forward(q, k, k, block, scale=SCALE)
    kernel.backward(q, Saved(q, k, k, q, q[..., 0]), block, scale=SCALE)
    return recorder.calls


def test_one_segment_is_a_dense_call_and_several_are_packed() -> None:
    dense, packed = record("square"), record("squares")
    assert [name for name, _, _ in dense] == [FORWARD[0], BACKWARD[0]]
    assert [name for name, _, _ in packed] == [FORWARD[1], BACKWARD[1]]
    for _, args, kwargs in dense:
        assert args[0].shape == (2, 9, 4, 8)
        assert "cu_seqlens_q" not in kwargs
        assert (kwargs["causal"], kwargs["softmax_scale"]) == (True, SCALE)
    for _, args, kwargs in packed:
        assert args[0].shape == (24, 4, 8)
        assert kwargs["cu_seqlens_q"].tolist() == [0, 4, 5, 12, 16, 17, 24]
        assert kwargs["max_seqlen_k"] == 7


@pytest.mark.parametrize("name", ["square", "squares"])
def test_the_package_takes_these_arguments(name: str) -> None:
    """Fails when an installed version has renamed a function or a parameter."""
    interface = pytest.importorskip("flash_attn.flash_attn_interface")
    for function, args, kwargs in record(name):
        assert hasattr(interface, function), (
            f"flash-attn has no {function} any more; change longva_ray/ring/flash_package.py"
        )
        inspect.signature(getattr(interface, function)).bind(*args, **kwargs)
