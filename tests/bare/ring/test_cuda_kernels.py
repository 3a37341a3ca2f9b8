"""CUDA kernels: what is around the operators on a CPU, and the operators themselves on a GPU."""

import contextlib
import functools
from collections.abc import Callable

import pytest
import torch
from block_reference import (
    BLOCKS,
    SCALE,
    block_inputs,
    block_of,
    check_block,
    segments_by_definition,
)
from cuda_operators import cuda_operators_on_cpu
from ring_reference import relative_error

from longva_ray.ring.cuda import AtenCuda
from longva_ray.ring.cudnn import Cudnn
from longva_ray.ring.flash_package import FlashPackage
from longva_ray.ring.kernel import CannotRun, Kernel, Saved

KERNELS: dict[str, Callable[[], Kernel]] = {
    "flash": AtenCuda,
    "cuDNN": functools.partial(Cudnn, min_pairs=1, min_pairs_once=1),
}


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("flash", "cudnn"):
        monkeypatch.setattr(f"longva_ray.ring.{module}.check_input", lambda q: None)


@pytest.mark.parametrize("ratio", [1, 2, 7])
@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.usefixtures("in_float64")
def test_kernels_on_emulated_operators_equal_the_definition(
    kernel: str, name: str, ratio: int
) -> None:
    """Offsets, layouts, squares and rectangles, on what the operators document."""
    with cuda_operators_on_cpu():
        check_block(KERNELS[kernel](), BLOCKS[name], ratio)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_torch_cuda_operators_accept_these_arguments(kernel: str, name: str) -> None:
    """On tensors without content, by torch's own account of the operators: shapes, no numbers."""
    block, operators = BLOCKS[name], KERNELS[kernel]()
    rows, keys = block.query_starts[-1], block.key_starts[-1]
    shapes = [(2, n, s, 64) for n, s in ((14, rows), (2, keys), (2, keys), (14, rows))]
    q, k, v, grad_out = (torch.empty(s, dtype=torch.bfloat16, device="meta") for s in shapes)
    out, lse = operators.forward(q, k, v, block, scale=SCALE)
    assert out.shape == q.shape
    assert (lse.shape, lse.dtype) == (q.shape[:3], torch.float32)
    grads = operators.backward(grad_out, Saved(q, k, v, out, lse), block, scale=SCALE)
    assert [g.shape for g in grads] == [q.shape, k.shape, v.shape]


def test_inputs_that_flash_kernels_do_not_take_are_errors() -> None:
    block = BLOCKS["square"]
    with pytest.raises(ValueError, match=r"bfloat16 or float16, got torch.float64"):
        AtenCuda().forward(*block_inputs(block)[:3], block, scale=SCALE)
    odd = [torch.zeros(1, 1, 9, 12, dtype=torch.bfloat16)] * 3
    with pytest.raises(ValueError, match="multiples of 8 up to 256, got 12"):
        AtenCuda().forward(*odd, block, scale=SCALE)


def cuda_kernels() -> list[Kernel]:
    """All that run here, with cuDNN for every segment."""
    kernels: list[Kernel] = [AtenCuda()]
    with contextlib.suppress(CannotRun):
        Cudnn.load()
        kernels.append(Cudnn(min_pairs=1, min_pairs_once=1))
    with contextlib.suppress(ImportError):
        kernels.append(FlashPackage.load())
    return kernels


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


NAMES_ON_GPU = {"cuDNN": "cudnn", "aten (CUDA flash)": "pytorch_flash::flash_fwd"}
"""What the CUDA kernels of the operators have in their names."""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_name_is_that_of_the_kernel_on_the_gpu() -> None:
    """What a kernel calls itself, against what the profiler saw running."""
    block = block_of([512], [512], causal=True)
    q, k, v = (torch.randn(1, n, 512, 64, device="cuda").bfloat16() for n in (4, 2, 2))
    for kernel in cuda_kernels():
        wanted = [on_gpu for name, on_gpu in NAMES_ON_GPU.items() if kernel.name.startswith(name)]
        kernel.forward(q, k, v, block, scale=SCALE)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            kernel.forward(q, k, v, block, scale=SCALE)
            torch.cuda.synchronize()
        ran = [event.key for event in profile.key_averages()]
        assert all(any(part in name for name in ran) for part in wanted), (kernel.name, ran)
