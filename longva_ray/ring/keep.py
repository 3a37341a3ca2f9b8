"""Keep the ring's forward result across activation checkpointing: recomputing does not communicate.

Checkpointing runs a layer a second time in the backward pass. For attention over a ring that second
run would cost all its communication and about two ninths of its arithmetic, only to find an output
that was known before. Pass `keep_ring_forward` to non-reentrant checkpointing, and every
checkpointed region remembers what the ring computed in it:

    torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False, context_fn=keep_ring_forward)

Each region remembers its results in the order of its calls and reads them in the same order, which
is the order that checkpointing itself relies on. They live exactly as long as the region's graph.
Without this everything is still correct; the ring just runs twice.

Trade-off: one output (and its log-sum-exp) a layer stays in memory, about as much as the layer
input that checkpointing keeps. Hooks for saved tensors, such as torch's `save_on_cpu`, may put it
elsewhere. What it does not do: regions inside regions (the inner one recomputes the ring).
"""

import contextlib
from collections.abc import Callable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any

from torch.autograd.graph import saved_tensors_hooks

from longva_ray.ring.kernel import OutAndLse


class _Region(contextlib.AbstractContextManager["_Region"]):
    """One checkpointed region, in its first run or, as often as needed, in a recomputation."""

    def __init__(
        self,
        results: list[tuple[Any, Any]],
        hooks: saved_tensors_hooks | None,
        *,
        replaying: bool,
    ) -> None:
        self._results = results
        self._hooks = hooks
        self._replaying = replaying
        self._next = 0
        self._token: Token[_Region | None] | None = None

    def __enter__(self) -> "_Region":
        self._next = 0
        self._token = _region.set(self)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._token is not None
        _region.reset(self._token)

    def result_of(self, compute: Callable[[], OutAndLse]) -> OutAndLse:
        if not self._replaying:
            result = compute()
            # Detached aliases: the output itself will own the graph, and the graph owns this list.
            out, lse = (tensor.detach() for tensor in result)
            if self._hooks is not None:
                # As (B, L, N, H): the output comes back dense, and the layers after attention take
                # that without a copy.
                packed = (out.transpose(1, 2), lse)
                out, lse = (self._hooks.pack_hook(tensor) for tensor in packed)
            self._results.append((out, lse))
            return result
        assert self._next < len(self._results), (
            "a checkpointed region calls the ring more often now"
        )
        out, lse = self._results[self._next]
        self._next += 1
        if self._hooks is not None:
            return self._hooks.unpack_hook(out).transpose(1, 2), self._hooks.unpack_hook(lse)
        return out.detach(), lse.detach()


_region: ContextVar[_Region | None] = ContextVar("ring_checkpoint_region", default=None)


def keep_ring_forward(hooks: saved_tensors_hooks | None = None) -> tuple[_Region, _Region]:
    """The `context_fn` of `checkpoint`: contexts for the first run and for recomputations.

    `hooks` pack what is remembered and unpack it again, as they would for tensors that autograd
    saves; bind them with `functools.partial`.
    """
    results: list[tuple[Any, Any]] = []
    return _Region(results, hooks, replaying=False), _Region(results, hooks, replaying=True)


def kept(compute: Callable[[], OutAndLse]) -> OutAndLse:
    """`compute()`, or what it returned when the checkpointed region around this call ran first."""
    region = _region.get()
    return compute() if region is None else region.result_of(compute)
