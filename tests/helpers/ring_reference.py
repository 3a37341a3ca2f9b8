"""The plainest possible attention: one process, the whole score matrix, repeated keys, autograd."""

import torch


def document_ids(document_lengths: tuple[int, ...]) -> torch.Tensor:
    return torch.repeat_interleave(
        torch.arange(len(document_lengths)), torch.tensor(document_lengths)
    )


def dense_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    document_lengths: tuple[int, ...],
    *,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """q (B, N, T, H), k, v (B, M, T, H) -> out (B, N, T, H), lse (B, N, T); causal by document."""
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    document, index = document_ids(document_lengths), torch.arange(q.shape[2])
    visible = (document[:, None] == document[None, :]) & (index[:, None] >= index[None, :])
    scores = scores.masked_fill(~visible, -torch.inf)
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


def attention_and_gradients(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    grad_out: torch.Tensor,
    document_lengths: tuple[int, ...],
    *,
    scale: float | None = None,
) -> tuple[torch.Tensor, ...]:
    """out, dq, dk, dv of the dense computation in the dtype of its inputs."""
    q, k, v = (t.detach().clone().requires_grad_() for t in (q, k, v))
    out, _ = dense_attention(q, k, v, document_lengths, scale=scale)
    return (out.detach(), *torch.autograd.grad(out, (q, k, v), grad_out))


def random_inputs(
    num_tokens: int,
    *,
    batch: int = 1,
    heads: int = 2,
    key_heads: int = 2,
    head_dim: int = 8,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[torch.Tensor, ...]:
    """q, k, v and the gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, n, num_tokens, head_dim) for n in (heads, key_heads, key_heads, heads)]
    return tuple(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes)


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest deviation, relative to the largest entry or to 1, the scale of the inputs.

    (A document of one token has gradients that are exactly 0.)
    """
    wanted = wanted.double()
    return float((got.double() - wanted).abs().max() / wanted.abs().max().clamp_min(1.0))
