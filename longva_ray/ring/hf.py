"""Ring attention under a name that transformers models can be told to use: `longva_ring`.

    register()
    model = Qwen2ForCausalLM.from_pretrained(path, attn_implementation="longva_ring")
    ring = Ring(layout=layout, group=mesh.ring_group)
    local_ids = layout.split(ids, ring.rank, dim=1, pad_value=0)
    hidden = model.model(input_ids=local_ids, **ring_inputs(model, ring)).last_hidden_state

No model file is forked or patched. Transformers calls the function registered here with queries,
keys and values after the rotary embedding, and passes the keyword `ring` through to it untouched.
`Ring.schedule` says how keys travel. The model never learns that its sequence is only a share.

A zigzag share of a sequence looks like a packed batch to transformers' own attention functions,
which would silently compute something else. So there are guards. `ring_inputs`, which provides the
positions, refuses a model that is not set to this implementation. The attention refuses positions
that are not those of the layout. Everything the ring cannot compute (padding masks, other masks,
dropout, sliding windows, caches, score caps) is an error.

What it does not do: decoding. The ring is for training and for whole-sequence evaluation.
"""

import functools
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from longva_ray.ring.attention import Ring, ring_attention
from longva_ray.ring.layout import ZigzagLayout

NAME = "longva_ring"

_UNSUPPORTED = ("softcap", "s_aux", "position_bias", "head_mask", "cu_seq_lens_q", "block_table")
"""Keywords by which transformers asks an attention function to compute something else."""


def register() -> None:
    """Make `attn_implementation="longva_ring"` known to transformers in this process."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)


def ring_inputs(
    model: PreTrainedModel, ring: Ring, device: torch.device | None = None
) -> dict[str, Any]:
    """Keyword arguments for the forward pass of `model` on this rank's share of the tokens.

    Positions are (1, L), within each document, on `device`: None is the model's, which is the CPU
    for one whose weights are offloaded. Raises ValueError unless the model is set to this attention
    implementation: any other would take the share for a packed batch.
    """
    chosen = model.config._attn_implementation
    if chosen != NAME:
        raise ValueError(
            f"the model's attention implementation is {chosen!r}, which would compute something "
            "else on a zigzag share of a sequence; call longva_ray.ring.hf.register() and "
            f"model.set_attn_implementation({NAME!r})"
        )
    positions = _local_positions(ring.layout, ring.rank, device or model.device)
    return {"position_ids": positions, "ring": ring, "use_cache": False}


@functools.lru_cache(maxsize=4)
def _local_positions(layout: ZigzagLayout, rank: int, device: torch.device) -> torch.Tensor:
    """(1, L), cached: every layer then checks identity and waits for no device."""
    with torch.inference_mode(False):
        return layout.positions(rank)[None].to(device)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    ring: Ring | None = None,
    position_ids: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in every layer: q (B, N, L, H), k, v (B, M, L, H) -> (B, L, N, H)."""
    if ring is None:
        raise ValueError(
            f"attention {NAME!r} needs to know how the sequence is spread: call the model with "
            "**ring_inputs(model, ring)"
        )
    causal = module.is_causal if is_causal is None else is_causal
    refused = {
        "attention_mask": attention_mask is not None,
        "dropout": dropout != 0.0,
        "sliding_window": sliding_window is not None,
        "is_causal=False": not causal,
        "output_attentions": bool(kwargs.get("output_attentions")),
        **{name: kwargs.get(name) is not None for name in _UNSUPPORTED},
    }
    if any(refused.values()):
        asked = [name for name, present in refused.items() if present]
        raise ValueError(
            f"attention {NAME!r} cannot honour {asked}: it computes plain causal attention inside "
            "the documents of the layout; set dropout to 0, describe documents and padding by "
            "ZigzagLayout, or use another implementation"
        )
    _check_positions(position_ids, ring, query.device)
    out_BNLH = ring_attention(query, key, value, ring, scale=scaling)
    return out_BNLH.transpose(1, 2), None


def _check_positions(position_ids: torch.Tensor | None, ring: Ring, device: torch.device) -> None:
    """Raise ValueError unless the rotary embedding used the positions of this rank's tokens."""
    wanted = _local_positions(ring.layout, ring.rank, device)
    if position_ids is wanted:
        return
    if position_ids is None or position_ids.shape[-1] != wanted.shape[-1]:
        given = None if position_ids is None else tuple(position_ids.shape)
        raise ValueError(
            f"attention {NAME!r} wants position_ids of shape {tuple(wanted.shape)}, got {given}; "
            "call the model with **ring_inputs(model, ring)"
        )
    if not bool((position_ids == wanted).all()):
        raise ValueError(
            "position_ids are not those of this rank's tokens, so the rotary embedding is wrong: "
            "a rank holds two distant chunks of the sequence; call the model with "
            "**ring_inputs(model, ring)"
        )


def _mask(
    *,
    mask_function: Any,
    q_length: int,
    kv_length: int,
    attention_mask: torch.Tensor | None = None,
    device: torch.device | str = "cpu",
    **_: Any,
) -> None:
    """What transformers calls once a forward pass to build a mask: none, but it may refuse."""
    if attention_mask is not None and not bool(attention_mask.all()):
        raise ValueError(
            f"attention {NAME!r} takes no padding mask: ZigzagLayout makes padding a separate "
            "document; leave attention_mask out"
        )
    if q_length != kv_length:
        raise ValueError(
            f"attention {NAME!r} has no KV cache: {q_length} queries but {kv_length} keys; pass "
            "use_cache=False"
        )
    # A mask that shows any token its successor is not causal. Transformers composes such masks from
    # opaque functions (bidirectional, prefix, image blocks), so the function itself is asked. What
    # the function hides does not matter here: it takes the jump between the two chunks for a
    # boundary between documents.
    first = torch.zeros((), dtype=torch.long, device=device)
    index = torch.arange(q_length, device=device)
    ahead = torch.as_tensor(mask_function(first, first, index[:-1], index[1:]))
    if bool(ahead.any()):
        raise ValueError(
            f"attention {NAME!r} is causal, but the model asks for a mask that shows tokens their "
            "successors"
        )
