"""The local kernel: query rows against key rows -> attention output and its log-sum-exp.

    forward    q (B, N, S, H), k and v (B, M, S', H)  ->  out (B, N, S, H), lse (B, N, S)
    backward   the same, grad_out, and the GLOBAL out and lse  ->  dq, dk, dv of this block alone

M divides N (grouped-query attention) and keys are never repeated. Because softmax weights are
exp(score - lse), a block that is handed the log-sum-exp over all keys of the sequence returns its
exact share of the gradients; shares only add up. Two partial results over different keys are merged
with `merge_`.

One signature, three implementations: torch's CPU flash op (float64, float32, bfloat16, float16),
torch's CUDA flash op and the flash-attn package (both in `flash`, bfloat16 and float16 only).
`choose_kernel` decides once a process and logs it.

What it does not do: dropout, sliding windows, any mask other than the causal ones that `plan.Block`
describes. Shapes: B batch, N query heads, M key heads, S rows of the block, H head dimension.
"""

import functools
import logging
from typing import Literal, TypeAlias

from longva_ray.ring.cpu import AtenCpu
from longva_ray.ring.kernel import Kernel

logger = logging.getLogger(__name__)


KernelName: TypeAlias = Literal["aten", "flash-attn"]


@functools.cache
def choose_kernel(device_type: str, name: KernelName | None = None) -> Kernel:
    """The kernel for "cpu" or "cuda" tensors, decided once a process; `name` overrides the choice.

    On CUDA the flash-attn package is taken when it can be imported, else torch's own flash op.
    Raises ValueError for a device without a kernel, or a named kernel that this machine cannot run.
    """
    kernel = _cpu_kernel(name) if device_type == "cpu" else _cuda_kernel(device_type, name)
    logger.info("attention on %s: block kernel %s", device_type, kernel.name)
    return kernel


def _cpu_kernel(name: KernelName | None) -> Kernel:
    if name == "flash-attn":
        raise ValueError("kernel 'flash-attn' needs CUDA tensors, got CPU tensors; use 'aten'")
    return AtenCpu()


def _cuda_kernel(device_type: str, name: KernelName | None) -> Kernel:
    from longva_ray.ring.flash import AtenCuda, FlashAttn

    if device_type != "cuda":
        raise ValueError(f"ring attention runs on 'cpu' and 'cuda' tensors, got {device_type!r}")
    if name == "aten":
        return AtenCuda()
    try:
        return FlashAttn.load()
    except ImportError as error:
        if name == "flash-attn":
            raise ValueError(
                f"kernel 'flash-attn' cannot be imported ({error}); pip install 'longva-ray[gpu]', "
                "or use kernel 'aten', which ships with torch"
            ) from error
        logger.info("flash-attn cannot be imported (%s)", error)
        return AtenCuda()
