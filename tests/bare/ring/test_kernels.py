"""Block kernels against dense attention; the CUDA packing against an emulation of its operators."""

import importlib.util
import logging
from collections.abc import Iterator

import pytest
import torch
from ring_reference import attention_and_gradients, dense_attention, random_inputs, relative_error
from torch._subclasses.fake_tensor import FakeTensorMode

from longva_ray.ring.choose import choose_kernel
from longva_ray.ring.cpu import AtenCpu
from longva_ray.ring.flash import AtenCuda, FlashAttn, FlashLayoutKernel, Packed
from longva_ray.ring.kernel import Gradients, Kernel, OutAndLse, merge_
from longva_ray.ring.plan import Block

SCALE = 8**-0.5


def block_of(query_lengths: list[int], key_lengths: list[int], *, causal: bool) -> Block:
    query_starts, key_starts = ([0], [0])
    for starts, lengths in ((query_starts, query_lengths), (key_starts, key_lengths)):
        for length in lengths:
            starts.append(starts[-1] + length)
    return Block(
        queries=slice(0, query_starts[-1]),
        keys=slice(0, key_starts[-1]),
        query_starts=tuple(query_starts),
        key_starts=tuple(key_starts),
        causal=causal,
    )


BLOCKS = {
    "square": block_of([9], [9], causal=True),
    "squares": block_of([4, 1, 7], [4, 1, 7], causal=True),
    "causal with earlier keys": block_of([5], [12], causal=True),
    "causal, earlier keys in the first document": block_of([5, 3], [12, 3], causal=True),
    "rectangle": block_of([5], [12], causal=False),
    "one query": block_of([1], [12], causal=False),
    "one key": block_of([12], [1], causal=False),
}


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> OutAndLse:
    """One segment by definition, the mask aligned to the last query and last key."""
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
    scores = q @ k.transpose(-1, -2) * SCALE
    if causal:
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        scores = scores.masked_fill(~visible, -torch.inf)
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


def segments_by_definition(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block: Block
) -> OutAndLse:
    parts = [
        attend(q[:, :, rows], k[:, :, keys], v[:, :, keys], block.causal)
        for rows, keys in block.segments()
    ]
    return torch.cat([out for out, _ in parts], dim=2), torch.cat([lse for _, lse in parts], dim=2)


def block_inputs(block: Block, *, batch: int = 2, ratio: int = 2) -> tuple[torch.Tensor, ...]:
    q, _, _, grad_out = random_inputs(block.query_starts[-1], batch=batch, heads=2 * ratio)
    _, k, v, _ = random_inputs(block.key_starts[-1], batch=batch, key_heads=2, seed=1)
    return q, k, v, grad_out


class EmulatedCuda(FlashLayoutKernel):
    """Computes what the CUDA operators document, to test the packing around them."""

    name = "emulated"

    def call_forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        packed: Packed | None,
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
            part = (t.transpose(0, 1)[None] for t in (q[rows], k[keys], v[keys]))
            out, lse = attend(*part, causal)
            outs.append(out[0].transpose(0, 1))
            lses.append(lse[0])
        return torch.cat(outs), torch.cat(lses, dim=1)

    def call_backward(
        self,
        grad_out: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        packed: Packed | None,
        causal: bool,
        scale: float,
    ) -> Gradients:
        assert lse.is_contiguous()
        with torch.enable_grad():
            q, k, v = (t.detach().clone().requires_grad_() for t in (q, k, v))
            again, lse_again = self.call_forward(q, k, v, packed, causal, scale)
            torch.testing.assert_close(out, again)
            torch.testing.assert_close(lse, lse_again)
            dq, dk, dv = torch.autograd.grad(again, (q, k, v), grad_out)
        return dq, dk, dv


def _segments(packed: Packed) -> Iterator[tuple[slice, slice]]:
    assert packed.query_starts.dtype == packed.key_starts.dtype == torch.int32
    queries, keys = packed.query_starts.tolist(), packed.key_starts.tolist()
    for i in range(len(queries) - 1):
        yield slice(queries[i], queries[i + 1]), slice(keys[i], keys[i + 1])


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> FlashLayoutKernel:
    monkeypatch.setattr("longva_ray.ring.flash._check", lambda q: None)  # float64 on purpose
    return EmulatedCuda()


def check_block(kernel: Kernel, block: Block, ratio: int) -> None:
    q, k, v, grad_out = block_inputs(block, ratio=ratio)
    wanted_out, wanted_lse = segments_by_definition(q, k, v, block)
    out, lse = kernel.forward(q, k, v, block, scale=SCALE)
    assert relative_error(out, wanted_out) <= 1e-12
    assert relative_error(lse, wanted_lse) <= 1e-12
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    wanted = torch.autograd.grad(segments_by_definition(*leaves, block)[0], leaves, grad_out)
    got = kernel.backward(grad_out, q, k, v, out, lse, block, scale=SCALE)
    for g, w in zip(got, wanted, strict=True):
        assert relative_error(g, w) <= 1e-12


@pytest.mark.parametrize("ratio", [1, 2, 7])
@pytest.mark.parametrize("name", BLOCKS)
def test_cpu_kernel_equals_the_definition(name: str, ratio: int) -> None:
    check_block(AtenCpu(), BLOCKS[name], ratio)


@pytest.mark.parametrize("name", BLOCKS)
def test_cuda_packing_equals_the_definition(name: str, emulated: FlashLayoutKernel) -> None:
    check_block(emulated, BLOCKS[name], 2)


def test_rows_of_a_larger_tensor_need_no_copy() -> None:
    """Kernels are handed slices: strided, and for the log-sum-exp strided as well."""
    q, k, v, grad_out = random_inputs(20)
    wanted = attention_and_gradients(q, k, v, grad_out, (20,))
    out, lse = dense_attention(q, k, v, (20,))
    far = block_of([8], [12], causal=False)
    near = block_of([8], [8], causal=True)
    rows = [t[:, :, 12:] for t in (grad_out, q)]
    results = [t[:, :, 12:] for t in (out, lse)]
    shares = [
        AtenCpu().backward(*rows, k[:, :, keys], v[:, :, keys], *results, block, scale=SCALE)
        for keys, block in ((slice(0, 12), far), (slice(12, 20), near))
    ]
    dq = shares[0][0] + shares[1][0]
    assert relative_error(dq, wanted[1][:, :, 12:]) <= 1e-12


@pytest.mark.parametrize("gap", [0.0, 5.0, 150.0, -150.0, 1e4])
def test_merge_is_exact_for_any_gap(gap: float) -> None:
    q, k, v, _ = random_inputs(16)
    first, second = (
        attend(q, k[:, :, :9], v[:, :, :9], False),
        attend(q, k[:, :, 9:], v[:, :, 9:], False),
    )
    out, lse, more_out, more_lse = *first, second[0], second[1] + gap
    top = torch.maximum(lse, more_lse)
    a, b = (lse - top).exp(), (more_lse - top).exp()
    wanted = (a[..., None] * out + b[..., None] * more_out) / (a + b)[..., None]
    wanted_lse = torch.logaddexp(lse, more_lse)
    merge_(out, lse, more_out, more_lse)
    assert relative_error(out, wanted) <= 1e-13
    assert relative_error(lse, wanted_lse) <= 1e-13


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
        grads = AtenCuda().backward(grad_out, q, k, v, out, lse, block, scale=SCALE)
        assert [g.shape for g in grads] == [q.shape, k.shape, v.shape]


def test_kernel_is_chosen_once_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    choose_kernel.cache_clear()
    with caplog.at_level(logging.INFO, logger="longva_ray.ring.choose"):
        kernel = choose_kernel("cpu")
        assert choose_kernel("cpu") is kernel
    assert [r.message for r in caplog.records] == [
        "attention on cpu: block kernel aten (CPU flash)"
    ]


def test_kernels_that_cannot_run_are_errors() -> None:
    assert isinstance(choose_kernel("cuda", "aten"), AtenCuda)
    with pytest.raises(ValueError, match="needs CUDA tensors"):
        choose_kernel("cpu", "flash-attn")
    with pytest.raises(ValueError, match="'cpu' and 'cuda' tensors, got 'mps'"):
        choose_kernel("mps")
    block = BLOCKS["square"]
    with pytest.raises(ValueError, match=r"bfloat16 or float16, got torch.float64"):
        AtenCuda().forward(*block_inputs(block)[:3], block, scale=SCALE)
    odd = [torch.zeros(1, 1, 9, 12, dtype=torch.bfloat16)] * 3
    with pytest.raises(ValueError, match="multiples of 8 up to 256, got 12"):
        AtenCuda().forward(*odd, block, scale=SCALE)


@pytest.mark.skipif(
    importlib.util.find_spec("flash_attn") is not None, reason="flash-attn is installed"
)
def test_missing_flash_attn_names_the_extra() -> None:
    with pytest.raises(ValueError, match=r"longva-ray\[gpu\]"):
        choose_kernel("cuda", "flash-attn")
    assert isinstance(choose_kernel("cuda"), AtenCuda)


def cuda_kernels() -> list[FlashLayoutKernel]:
    try:
        return [AtenCuda(), FlashAttn.load()]
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
        got = kernel.backward(on_gpu[3], *on_gpu[:3], out, lse, block, scale=SCALE)
        for g, w in zip(got, wanted, strict=True):
            assert relative_error(g.cpu(), w) <= 2e-2, kernel.name
