"""Attention over a KV cache without a mask, under a name that transformers knows: `longva_cached`.

    use_cached_attention(model.to(device))     # then prompts in chunks, and answers after them

A prompt that is read in chunks, or an answer that is scored after it, is causal attention of the
last rows of a longer sequence. Transformers describes that by a mask of chunk x prompt. With a mask
torch's attention uses no flash kernel on a GPU. On every device it then repeats the keys of
grouped-query attention for every query head in every layer: gigabytes for a long prompt. The
kernels of the ring need neither mask nor copies, so they are used here too.

What it does not do: training, batches with padding, sliding windows, score caps, biases. A model
that needs one of those, or a number format that the device's kernel does not take, keeps its
attention. So does one whose attention cannot be set (Bloom, Falcon) or has values of another width
than its keys (DeepSeek-V3), which shows when it is tried.
"""

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from longva_ray.answer.attention_mass import AttentionMass
from longva_ray.answer.branch import InTwoParts, Trunk, branch_cache
from longva_ray.answer.cache import roomy_cache
from longva_ray.ring.choose import choose_kernel
from longva_ray.ring.kernel import OutAndLse, accumulate_dtype, merge_
from longva_ray.ring.plan import Block

NAME = "longva_cached"


def use_cached_attention(model: PreTrainedModel) -> bool:
    """Set a language model, on its device, to this attention, unless it needs another; whether it
    was set."""
    config = model.config
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    caps = getattr(config, "attn_logit_softcapping", None)
    if set(kinds) != {"full_attention"} or caps or getattr(config, "sliding_window", None):
        return False
    if model.device.type == "cuda" and model.dtype not in (torch.bfloat16, torch.float16):
        return False
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _no_mask)
    own = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    if _can_branch(model):
        return True
    model.set_attn_implementation(own or "eager")
    return False


@torch.inference_mode()
def _can_branch(model: PreTrainedModel) -> bool:
    """Whether a model reads a few tokens, and more after them from a branch. One that does not hand
    keys and values to `_attention` as they are cannot."""
    ids = torch.zeros((1, 2), dtype=torch.long, device=model.device)
    cache = roomy_cache(model)
    try:
        model(input_ids=ids, past_key_values=cache, use_cache=True)
        model(input_ids=ids, past_key_values=branch_cache(Trunk.of(cache)), use_cache=True)
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, AttributeError, TypeError, ValueError, RuntimeError):
        return False
    return True


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor | InTwoParts,
    value: torch.Tensor | InTwoParts,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    attention_mass: AttentionMass | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in every layer: q (B, N, L, H), k, v (B, M, T, H) -> (B, L, N, H).
    The caller of the model may give it an `attention_mass`, to which it adds."""
    assert attention_mask is None
    assert not kwargs.get("dropout")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if isinstance(key, InTwoParts) and isinstance(value, InTwoParts):
        if attention_mass is not None:
            attention_mass.add(query, key.whole(), scale=scale)
        out_BNLH, lse_BNL = _over(query, key.branch, value.branch, scale, causal=True)
        out_BNLH = out_BNLH.to(accumulate_dtype(query.dtype))
        more = _over(query, key.trunk, value.trunk, scale, causal=False)
        merge_(out_BNLH, lse_BNL, *more)
    else:
        assert isinstance(key, torch.Tensor)
        assert isinstance(value, torch.Tensor)
        if attention_mass is not None:
            attention_mass.add(query, key, scale=scale)
        out_BNLH, _lse = _over(query, key, value, scale, causal=True)
    return out_BNLH.to(query.dtype).transpose(1, 2), None


def _over(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, *, causal: bool
) -> OutAndLse:
    """The kernel over all queries and all keys, whose last query sees the last key."""
    length, total = query.shape[2], key.shape[2]
    block = Block(
        queries=slice(0, length),
        keys=slice(0, total),
        query_starts=(0, length),
        key_starts=(0, total),
        causal=causal,
        varies=True,
    )
    return choose_kernel(query.device.type).forward(query, key, value, block, scale=scale)


def _no_mask(*, attention_mask: torch.Tensor | None = None, **_: Any) -> None:
    """What transformers calls to build a mask."""
    if attention_mask is not None and not bool(attention_mask.all()):
        raise ValueError(
            f"attention {NAME!r} takes no padding: give one prompt at a time, without an "
            "attention_mask"
        )
