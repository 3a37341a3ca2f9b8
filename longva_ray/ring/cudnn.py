"""The attention kernel of cuDNN, which ships with torch for CUDA.

On an H200 it is 1.7 times as fast as torch's FlashAttention 2 (docs/gpu.md). It has two limits.

- Only squares and unmasked rectangles were checked on a GPU, so a causal rectangle is computed as
  one of each (`square`).
- cuDNN builds a plan for every new shape and keeps it as long as the process lives. Others
  measured about half a second forward and half a second backward for each shape (torch 2.11, a
  B200: https://github.com/modelscope/FunASR/issues/3704).

Hence the rule: a segment runs on cuDNN if it has at least `MIN_PAIRS` query-key pairs. What the
28 layers of a 7B model save on a segment by FlashAttention's 327 and cuDNN's 565 TFLOP/s, forward
and backward, is 1.8e-9 s a pair.

- In a layout of several documents lengths differ from row to row, so a shape rarely comes again.
  A plan of a second has to pay at once: from 2^29 pairs on, a document of 32K tokens.
- A layout of one document repeats its few shapes at every step. Those pay from 2^25 pairs on within
  16 steps, a sequence of 8K tokens.

All shorter segments run together, in as few calls of the variable-length flash operator as their
order allows. The plan times were not measured on the H200, nor was any packed row.

Shapes: B batch, N query heads, M key heads, S rows, H head dimension.
"""

import itertools
from collections.abc import Iterator

import torch

from longva_ray.ring.aten import cudnn, cudnn_backward
from longva_ray.ring.cuda import AtenCuda
from longva_ray.ring.flash import check_input
from longva_ray.ring.kernel import CannotRun, Gradients, Kernel, OutAndLse, Saved
from longva_ray.ring.plan import Block
from longva_ray.ring.square import attend, attend_backward

MIN_PAIRS, MIN_PAIRS_ONCE = 2**25, 2**29
"""Query-key pairs from which on a plan pays, for shapes that come again and for others."""

MAX_HEAD_DIM = 128
"""cuDNN's limit in the backward pass on compute capability 9.0; larger heads take the flash
operator."""


class Cudnn:
    """cuDNN for large segments, the flash operator of torch for the rest."""

    def __init__(self, *, min_pairs: int = MIN_PAIRS, min_pairs_once: int = MIN_PAIRS_ONCE) -> None:
        self._flash: Kernel = AtenCuda()
        self._min_pairs, self._min_pairs_once = min_pairs, min_pairs_once

    @classmethod
    def load(cls) -> "Cudnn":
        """Raises CannotRun where it was not tried: below compute capability 9.0."""
        if not torch.cuda.is_available() or not torch.backends.cudnn.is_available():
            raise CannotRun("this torch has no CUDA device or no cuDNN")
        capability = torch.cuda.get_device_capability()
        if capability < (9, 0):
            raise CannotRun(
                "it wants compute capability 9.0, got {}.{} of {}".format(
                    *capability, torch.cuda.get_device_name()
                )
            )
        return cls()

    @property
    def name(self) -> str:
        return f"cuDNN, and {self._flash.name} for small segments"

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block: Block, *, scale: float
    ) -> OutAndLse:
        check_input(q)
        results = [
            self._forward_part(q, k, v, part, scale) for part in self._parts(block, q.shape[-1])
        ]
        if len(results) == 1:
            return results[0]
        outs, lses = zip(*results, strict=True)
        return _joined(outs), torch.cat(lses, dim=2)

    def backward(
        self, grad_out: torch.Tensor, saved: Saved, block: Block, *, scale: float
    ) -> Gradients:
        results = [
            self._backward_part(grad_out, saved, part, scale)
            for part in self._parts(block, saved.q.shape[-1])
        ]
        if len(results) == 1:
            return results[0]
        dq, dk, dv = (_joined(grads) for grads in zip(*results, strict=True))
        return dq, dk, dv

    def _parts(self, block: Block, head_dim: int) -> Iterator[tuple[bool, Block]]:
        """Runs of segments, and whether each is one large segment for cuDNN."""
        least = self._min_pairs_once if block.varies else self._min_pairs
        large = [head_dim <= MAX_HEAD_DIM and pairs >= least for pairs in block.pairs_of_segments()]
        # Each large segment is a group of its own, neighbours that are not large are one group.
        for _, run in itertools.groupby(range(len(large)), key=lambda i: large[i] and i + 1):
            segments = list(run)
            yield large[segments[0]], block.part(segments[0], segments[-1] + 1)

    def _forward_part(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        part: tuple[bool, Block],
        scale: float,
    ) -> OutAndLse:
        large, block = part
        q, k, v = q[:, :, block.queries], k[:, :, block.keys], v[:, :, block.keys]
        if large:
            return attend(cudnn, q, k, v, causal=block.causal, scale=scale)
        return self._flash.forward(q, k, v, block, scale=scale)

    def _backward_part(
        self, grad_out: torch.Tensor, saved: Saved, part: tuple[bool, Block], scale: float
    ) -> Gradients:
        large, block = part
        grad_out, rows = grad_out[:, :, block.queries], saved.cut(block.queries, block.keys)
        if large:
            return attend_backward(cudnn_backward, grad_out, rows, causal=block.causal, scale=scale)
        return self._flash.backward(grad_out, rows, block, scale=scale)


def _joined(parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Rows of (B, N, S, H) one after another, laid out as (B, S, N, H): the layers around attention
    take them without a copy."""
    return torch.cat([part.transpose(1, 2) for part in parts], dim=1).transpose(1, 2)
