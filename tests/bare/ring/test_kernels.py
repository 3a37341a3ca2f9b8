"""The CPU kernel against the definition, and the merging of results over different keys."""

import pytest
import torch
from block_reference import BLOCKS, SCALE, attend, block_of, check_block
from ring_reference import attention_and_gradients, dense_attention, random_inputs, relative_error

from longva_ray.ring.cpu import AtenCpu
from longva_ray.ring.kernel import Saved, merge_


@pytest.mark.parametrize("ratio", [1, 2, 7])
@pytest.mark.parametrize("name", BLOCKS)
def test_cpu_kernel_equals_the_definition(name: str, ratio: int) -> None:
    check_block(AtenCpu(), BLOCKS[name], ratio)


def test_rows_of_a_larger_tensor_need_no_copy() -> None:
    """Kernels are handed slices: strided, and for the log-sum-exp strided as well."""
    q, k, v, grad_out = random_inputs(20)
    wanted = attention_and_gradients(q, k, v, grad_out, (20,))
    whole, rows = Saved(q, k, v, *dense_attention(q, k, v, (20,))), slice(12, 20)
    far = block_of([8], [12], causal=False)
    near = block_of([8], [8], causal=True)
    shares = [
        AtenCpu().backward(grad_out[:, :, rows], whole.cut(rows, keys), block, scale=SCALE)
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
