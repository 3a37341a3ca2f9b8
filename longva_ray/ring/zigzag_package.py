"""Attention by the zigzag function of the ring-flash-attn package: the `ring_flash_attn` schedule.

    q (B, N, L, H), k and v (B, M, L, H)  ->  (B, N, L, H), differentiable

It has the same layout of chunks, on CUDA, for one document without padding. Use it to compare, or
when a setup is already validated with it. Trade-off: the package chooses the order and precision of
merging, knows no packed documents, and its forward result is not kept across activation
checkpointing. Everything that depends on the inside of the package is in this file.

Source: https://github.com/zhuzilin/ring-flash-attention, version 0.1.8.
"""

import functools
import importlib
import sys
import types
from typing import Any

import torch
import torch.distributed as dist

from longva_ray.ring.layout import ZigzagLayout


def package_attention(
    q_BNLH: torch.Tensor,
    k_BMLH: torch.Tensor,
    v_BMLH: torch.Tensor,
    layout: ZigzagLayout,
    group: dist.ProcessGroup | None,
    *,
    scale: float,
) -> torch.Tensor:
    """q (B, N, L, H), k and v (B, M, L, H) -> (B, N, L, H).

    Raises ValueError for packed, padded or CPU input, and when the package cannot be imported.
    """
    if layout.document_starts != (0, layout.num_tokens):
        raise ValueError(
            "schedule 'ring_flash_attn' computes one document without padding, got "
            f"{len(layout.document_lengths)} document(s) of {layout.num_tokens} tokens, padded to "
            f"{layout.padded_tokens}; use schedule 'ring' or 'all_gather', or one document of a "
            f"length divisible by 2 x {layout.world_size}"
        )
    attend = _zigzag_function()
    if q_BNLH.device.type != "cuda" or group is None:
        raise ValueError(
            f"schedule 'ring_flash_attn' needs CUDA tensors and a process group, got "
            f"{q_BNLH.device.type} tensors and group {group}; use schedule 'ring'"
        )
    q, k, v = (t.transpose(1, 2) for t in (q_BNLH, k_BMLH, v_BMLH))
    out_BLNH: torch.Tensor = attend(q, k, v, softmax_scale=scale, causal=True, group=group)
    return out_BLNH.transpose(1, 2)


@functools.cache
def _zigzag_function() -> Any:
    """Raises ValueError naming the extra when the package or flash-attn cannot be imported."""
    try:
        package = _import_without_adapters()
    except ImportError as error:
        raise ValueError(
            f"schedule 'ring_flash_attn' cannot be used ({error}); pip install 'longva-ray[gpu]', "
            "or use schedule 'ring'"
        ) from error
    return package.zigzag_ring_flash_attn_func


def _import_without_adapters() -> Any:
    """Import the package with an empty module in place of its adapter for transformers.

    Importing version 0.1.8 loads that adapter, which asks transformers for a name that version 5 no
    longer has (`is_flash_attn_greater_or_equal_2_10`), so the import fails. Nothing here uses the
    adapter.
    """
    adapters: Any = types.ModuleType("ring_flash_attn.adapters")
    adapters.substitute_hf_flash_attn = adapters.update_ring_flash_attn_params = None
    absent = adapters.__name__ not in sys.modules
    sys.modules.setdefault(adapters.__name__, adapters)
    try:
        return importlib.import_module("ring_flash_attn")
    finally:
        if absent:
            del sys.modules[adapters.__name__]
