"""CUDA kernels: the packing around them on a CPU, and the operators themselves on a GPU."""

from collections.abc import Iterator

import pytest
import torch
from block_reference import (
    BLOCKS,
    SCALE,
    attend,
    block_inputs,
    check_block,
    segments_by_definition,
)
from ring_reference import relative_error
from torch._subclasses.fake_tensor import FakeTensorMode

from longva_ray.ring.cuda import AtenCuda
from longva_ray.ring.flash import FlashKernel, Packed
from longva_ray.ring.flash_package import FlashPackage
from longva_ray.ring.kernel import Gradients, OutAndLse, Saved


class EmulatedCuda(FlashKernel):
    """Computes what the CUDA operators document, to test the packing around them."""

    name = "emulated"

    def call_forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        packed: Packed | None,
        *,
        causal: bool,
        scale: float,
    ) -> OutAndLse:
        assert scale == SCALE
        if packed is None:
            out, lse = attend(*(t.transpose(1, 2) for t in (q, k, v)), causal)
            return out.transpose(1, 2), lse
        assert q.dim() == 3
        outs, lses = [], []
        for rows, keys in _segments(packed):
            assert len(range(*rows.indices(len(q)))) <= packed.max_queries
            assert len(range(*keys.indices(len(k)))) <= packed.max_keys
            segment = (t.transpose(0, 1)[None] for t in (q[rows], k[keys], v[keys]))
            out, lse = attend(*segment, causal)
            outs.append(out[0].transpose(0, 1))
            lses.append(lse[0])
        return torch.cat(outs), torch.cat(lses, dim=1)

    def call_backward(
        self,
        grad_out: torch.Tensor,
        saved: Saved,
        packed: Packed | None,
        *,
        causal: bool,
        scale: float,
    ) -> Gradients:
        assert saved.lse.is_contiguous()
        with torch.enable_grad():
            q, k, v = (t.detach().clone().requires_grad_() for t in saved[:3])
            again, lse_again = self.call_forward(q, k, v, packed, causal=causal, scale=scale)
            torch.testing.assert_close(saved.out, again)
            torch.testing.assert_close(saved.lse, lse_again)
            dq, dk, dv = torch.autograd.grad(again, (q, k, v), grad_out)
        return dq, dk, dv


def _segments(packed: Packed) -> Iterator[tuple[slice, slice]]:
    assert packed.query_starts.dtype == packed.key_starts.dtype == torch.int32
    queries, keys = packed.query_starts.tolist(), packed.key_starts.tolist()
    for i in range(len(queries) - 1):
        yield slice(queries[i], queries[i + 1]), slice(keys[i], keys[i + 1])


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> FlashKernel:
    monkeypatch.setattr("longva_ray.ring.flash._check", lambda q: None)  # float64 on purpose
    return EmulatedCuda()


@pytest.mark.parametrize("name", BLOCKS)
def test_packing_equals_the_definition(name: str, emulated: FlashKernel) -> None:
    check_block(emulated, BLOCKS[name], 2)


@pytest.mark.parametrize("name", BLOCKS)
def test_torch_cuda_operators_accept_these_arguments(name: str) -> None:
    """Under fake CUDA tensors: schemas and shapes, no numbers."""
    block = BLOCKS[name]
    with FakeTensorMode():
        rows, keys = block.query_starts[-1], block.key_starts[-1]
        shapes = [(2, n, s, 64) for n, s in ((14, rows), (2, keys), (2, keys), (14, rows))]
        q, k, v, grad_out = (torch.empty(s, dtype=torch.bfloat16, device="cuda") for s in shapes)
        out, lse = AtenCuda().forward(q, k, v, block, scale=SCALE)
        assert out.shape == q.shape
        assert (lse.shape, lse.dtype) == (q.shape[:3], torch.float32)
        grads = AtenCuda().backward(grad_out, Saved(q, k, v, out, lse), block, scale=SCALE)
        assert [g.shape for g in grads] == [q.shape, k.shape, v.shape]


def test_inputs_that_flash_kernels_do_not_take_are_errors() -> None:
    block = BLOCKS["square"]
    with pytest.raises(ValueError, match=r"bfloat16 or float16, got torch.float64"):
        AtenCuda().forward(*block_inputs(block)[:3], block, scale=SCALE)
    odd = [torch.zeros(1, 1, 9, 12, dtype=torch.bfloat16)] * 3
    with pytest.raises(ValueError, match="multiples of 8 up to 256, got 12"):
        AtenCuda().forward(*odd, block, scale=SCALE)


def cuda_kernels() -> list[FlashKernel]:
    try:
        return [AtenCuda(), FlashPackage.load()]
    except ImportError:
        return [AtenCuda()]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("ratio", [1, 2, 7])
@pytest.mark.parametrize("name", BLOCKS)
def test_cuda_kernels_equal_the_definition(name: str, ratio: int) -> None:
    """bfloat16 operators against the float64 definition of the same numbers."""
    block = BLOCKS[name]
    q, k, v, grad_out = (t.bfloat16().double() for t in block_inputs(block, ratio=ratio))
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    wanted_out, wanted_lse = segments_by_definition(*leaves, block)
    wanted = torch.autograd.grad(wanted_out, leaves, grad_out)
    on_gpu = [t.bfloat16().cuda() for t in (q, k, v, grad_out)]
    for kernel in cuda_kernels():
        out, lse = kernel.forward(*on_gpu[:3], block, scale=SCALE)
        assert relative_error(out.cpu(), wanted_out) <= 1e-2, kernel.name
        assert relative_error(lse.cpu(), wanted_lse) <= 1e-3, kernel.name
        got = kernel.backward(on_gpu[3], Saved(*on_gpu[:3], out, lse), block, scale=SCALE)
        for g, w in zip(got, wanted, strict=True):
            assert relative_error(g.cpu(), w) <= 2e-2, kernel.name
