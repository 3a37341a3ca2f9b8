"""Tiled cross-entropy against torch's own, in one process.

Over several processes: tests/bare/ring/test_loss_over_ranks.py.
"""

import importlib.util

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from longva_ray.lm.loss import linear_cross_entropy

WIDTH, WORDS, IGNORED = 6, 23, -100


def inputs(
    num_tokens: int, *, dtype: torch.dtype = torch.float64, ignored: float = 0.3, seed: int = 0
) -> tuple[torch.Tensor, ...]:
    """hidden, weight, bias, labels; a share of the labels is ignored."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_tokens, WIDTH, generator=generator, dtype=torch.float64)
    weight = torch.randn(WORDS, WIDTH, generator=generator, dtype=torch.float64)
    bias = torch.randn(WORDS, generator=generator, dtype=torch.float64)
    labels = torch.randint(WORDS, (num_tokens,), generator=generator)
    labels[torch.rand(num_tokens, generator=generator) < ignored] = IGNORED
    return hidden.to(dtype), weight.to(dtype), bias.to(dtype), labels


def plain(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
) -> torch.Tensor:
    scores = F.linear(hidden, weight, bias)
    total = F.cross_entropy(scores, labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def loss_and_gradients(
    function: object, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> list[torch.Tensor]:
    leaves = [t.clone().requires_grad_() for t in (hidden, weight, bias) if t is not None]
    loss = function(*leaves)  # type: ignore[operator]
    # A factor in front of the loss, as gradient accumulation puts there.
    return [loss.detach(), *torch.autograd.grad(0.25 * loss, leaves)]


@given(
    num_tokens=st.integers(1, 40),
    tile_tokens=st.integers(1, 50),
    with_bias=st.booleans(),
    ignored=st.sampled_from([0.0, 0.4, 1.0]),
)
def test_equals_plain_cross_entropy(
    num_tokens: int, tile_tokens: int, with_bias: bool, ignored: float
) -> None:
    hidden, weight, bias, labels = inputs(num_tokens, ignored=ignored)
    chosen = bias if with_bias else None

    def tiled(h: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
        return linear_cross_entropy(h, w, labels, bias_V=b, tile_tokens=tile_tokens)

    got = loss_and_gradients(tiled, hidden, weight, chosen)
    wanted = loss_and_gradients(lambda h, w, b=None: plain(h, w, b, labels), hidden, weight, chosen)
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_lower_precision_is_no_worse_than_the_plain_path(dtype: torch.dtype) -> None:
    """Against float64 on the same numbers; the plain path is in float32, as in transformers."""
    hidden, weight, _, labels = inputs(64, dtype=dtype)

    def upcast(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        scores = F.linear(h, w).float()
        return F.cross_entropy(scores, labels, ignore_index=IGNORED)

    exact = loss_and_gradients(
        lambda h, w: plain(h, w, None, labels), hidden.double(), weight.double(), None
    )
    usual = loss_and_gradients(upcast, hidden, weight, None)
    tiled = loss_and_gradients(
        lambda h, w: linear_cross_entropy(h, w, labels, tile_tokens=5), hidden, weight, None
    )
    assert tiled[0].dtype == torch.float32
    assert [g.dtype for g in tiled[1:]] == [dtype, dtype]
    for e, u, t in zip(exact, usual, tiled, strict=True):
        usual_error, error = (u.double() - e).norm() / e.norm(), (t.double() - e).norm() / e.norm()
        assert error <= 1.5 * usual_error + 1e-7


def test_leading_dimensions_are_free() -> None:
    hidden, weight, _, labels = inputs(24)
    flat = linear_cross_entropy(hidden, weight, labels)
    shaped = linear_cross_entropy(hidden.view(2, 3, 4, WIDTH), weight, labels.view(2, 3, 4))
    assert torch.equal(flat, shaped)


def test_no_label_at_all_is_zero_with_zero_gradients() -> None:
    hidden, weight, _, labels = inputs(8, ignored=1.0)
    loss, *grads = loss_and_gradients(
        lambda h, w: linear_cross_entropy(h, w, labels), hidden, weight, None
    )
    assert float(loss) == 0.0
    assert all(not bool(g.any()) for g in grads)


def test_a_given_denominator_adds_up_over_micro_batches() -> None:
    hidden, weight, _, labels = inputs(30)
    count = (labels != IGNORED).sum()
    whole = linear_cross_entropy(hidden, weight, labels)
    parts = [
        linear_cross_entropy(hidden[rows], weight, labels[rows], denominator=count)
        for rows in (slice(0, 7), slice(7, 30))
    ]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-12, atol=0)


def test_only_wanted_gradients_are_computed() -> None:
    """A frozen output weight costs neither its gradient nor the memory for it."""
    hidden, weight, _, labels = inputs(12)
    hidden.requires_grad_()
    linear_cross_entropy(hidden, weight, labels).backward()
    assert hidden.grad is not None
    assert weight.grad is None
    with LargestTensor() as largest, torch.no_grad():
        linear_cross_entropy(hidden, weight, labels, tile_tokens=2)
    assert largest.numel < weight.numel()


class LargestTensor(TorchDispatchMode):
    """The number of entries of the largest tensor that any operation made, views left out."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        given, made = (
            [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
            for tree in (args, result)
        )
        memory = {tensor.untyped_storage().data_ptr() for tensor in given}
        for tensor in made:
            if tensor.untyped_storage().data_ptr() not in memory:
                self.numel = max(self.numel, tensor.numel())
        return result


def test_scores_of_more_than_one_tile_never_exist() -> None:
    num_tokens, words, tile = 512, 1024, 16
    hidden = torch.randn(num_tokens, WIDTH, requires_grad=True)
    weight = torch.randn(words, WIDTH, requires_grad=True)
    labels = torch.randint(words, (num_tokens,))
    with LargestTensor() as largest:
        linear_cross_entropy(hidden, weight, labels, tile_tokens=tile).backward()
    assert largest.numel == tile * words
    with LargestTensor() as largest:
        F.cross_entropy(F.linear(hidden, weight), labels).backward()
    assert largest.numel == num_tokens * words


def test_a_second_backward_pass_is_refused() -> None:
    hidden, weight, _, labels = inputs(8)
    loss = linear_cross_entropy(hidden.requires_grad_(), weight, labels)
    loss.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="can run once"):
        loss.backward()


def test_mistakes_are_errors() -> None:
    hidden, weight, bias, labels = inputs(8)
    with pytest.raises(ValueError, match=r"got \(8, 6\), \(23, 5\), \(8,\) and None"):
        linear_cross_entropy(hidden, weight[:, :5], labels)
    with pytest.raises(ValueError, match=r"labels \(\.\.\.\)"):
        linear_cross_entropy(hidden, weight, labels[:7])
    with pytest.raises(ValueError, match=r"and \(22,\)"):
        linear_cross_entropy(hidden, weight, labels, bias_V=bias[:22])
    with pytest.raises(ValueError, match="'liger' needs CUDA tensors"):
        linear_cross_entropy(hidden, weight, labels, backend="liger")


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("liger_kernel") is None,
    reason="needs a CUDA device and liger-kernel",
)
def test_liger_equals_the_tiled_loss() -> None:
    hidden, weight, _, labels = (t.cuda() for t in inputs(64, dtype=torch.float32))
    liger, tiled = (
        loss_and_gradients(
            lambda h, w, b=backend: linear_cross_entropy(h, w, labels, backend=b),
            hidden,
            weight,
            None,
        )
        for backend in ("liger", "torch")
    )
    for a, b in zip(liger, tiled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
