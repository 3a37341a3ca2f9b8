"""Visual tokens take the places of their placeholders in the run of embeddings.

    input_ids_BT + tokens of each item -> inputs_embeds_BTD

Placeholder ids are never looked up in the embedding table and may lie outside it. Works with any
causal language model of transformers and tokens from anywhere (a shard, say): no vision tower is
involved. Gradients flow to both the text embeddings and the visual tokens.

Shape suffixes: B batch, T tokens of the whole sequence, Q visual tokens of one item or grid, D
language-model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

_ITEMS_TOLD = 8  # in an error message


class LanguageModel(Protocol):
    """A causal language model and the ids of its placeholders (`LoadedLanguageModel`)."""

    @property
    def model(self) -> PreTrainedModel: ...

    @property
    def placeholder_ids(self) -> Sequence[int]: ...


def embed_prompt(
    language_model: LanguageModel, input_ids_T: Tensor, visual_tokens: Sequence[Tensor]
) -> Tensor:
    """Embeddings of a prompt with visual tokens in place: ids_T, items [Q, D] -> embeds_1TD.

    Items are taken in the order of their placeholders, images and videos alike. The result is on
    the language model's device and of its dtype. An item may also be [G, Q, D]; its grids follow
    each other.

    Raises:
        ValueError: an item and its run of placeholders differ in length, or an item has another
            width.
    """
    input_ids_BT = input_ids_T.to(language_model.model.device).unsqueeze(0)
    mask_BT = placeholder_mask(input_ids_BT, language_model.placeholder_ids)
    items = [tokens.flatten(0, -2) for tokens in visual_tokens]
    runs, lengths = run_lengths(mask_BT), [len(tokens_QD) for tokens_QD in items]
    if not _items_fill_whole_runs(runs, lengths):
        raise misalignment(runs, lengths)
    embedding = language_model.model.get_input_embeddings()
    return fill(embed_text(input_ids_BT, embedding, mask_BT), mask_BT, items)


def placeholder_mask(input_ids_BT: Tensor, placeholder_ids: Sequence[int]) -> Tensor:
    """True where a visual token belongs."""
    wanted = torch.tensor(placeholder_ids, dtype=torch.int64, device=input_ids_BT.device)
    return torch.isin(input_ids_BT, wanted)


def embed_text(input_ids_BT: Tensor, embedding: nn.Module, mask_BT: Tensor) -> Tensor:
    """Embeddings of the text; what stands at masked positions means nothing and must be filled."""
    return embedding(input_ids_BT.masked_fill(mask_BT, 0))


def fill(inputs_embeds_BTD: Tensor, mask_BT: Tensor, items: Sequence[Tensor]) -> Tensor:
    """Put the tokens of all items, in order, at the masked positions, in order.

    Raises:
        ValueError: another number of tokens than positions (told for each run and item), or another
            width.
    """
    width = inputs_embeds_BTD.shape[-1]
    for tokens in items:
        if tokens.shape[-1] != width:
            raise ValueError(
                f"visual tokens have width {tokens.shape[-1]} but the language model has {width}; "
                "they were encoded for another model"
            )
    lengths = [tokens.numel() // width for tokens in items]
    if sum(lengths) != int(mask_BT.sum()):
        raise misalignment(run_lengths(mask_BT), lengths)
    if not items:
        return inputs_embeds_BTD
    flat = [tokens.flatten(0, -2).to(inputs_embeds_BTD) for tokens in items]
    tokens_QD = flat[0] if len(flat) == 1 else torch.cat(flat)
    # Out of place: the embeddings may be a leaf that requires gradients. By index and not by mask,
    # for which CUDA would number all B x T x D elements in 64 bits first.
    positions_Q = mask_BT.flatten().nonzero().squeeze(1)
    filled = inputs_embeds_BTD.flatten(0, 1).index_copy(0, positions_Q, tokens_QD)
    return filled.view_as(inputs_embeds_BTD)


def run_lengths(mask_BT: Tensor) -> list[int]:
    """Lengths of the runs of placeholders, row after row."""
    rows, columns = mask_BT.nonzero(as_tuple=True)
    if not len(rows):
        return []
    breaks = (rows.diff() != 0) | (columns.diff() != 1)
    starts = torch.cat([breaks.new_ones(1), breaks]).nonzero().flatten()
    return starts.diff(append=starts.new_tensor([len(rows)])).tolist()


def _items_fill_whole_runs(runs: Sequence[int], items: Sequence[int]) -> bool:
    """Whether each run is filled by one item, or by several that stand next to each other."""
    return sum(runs) == sum(items) and set(accumulate(items)).issuperset(accumulate(runs))


def misalignment(runs: Sequence[int], items: Sequence[int]) -> ValueError:
    """The error for placeholders and visual tokens that do not match: both counts by item."""
    told = [
        f"item {number}: {_count(runs, number)} placeholder(s), {_count(items, number)} visual "
        "token(s)"
        for number in range(max(len(runs), len(items)))
    ]
    pairs = "; ".join(told[:_ITEMS_TOLD] + ["..."] * (len(told) > _ITEMS_TOLD))
    return ValueError(
        f"the prompt has {sum(runs)} placeholder(s) in {len(runs)} run(s) but {len(items)} item(s) "
        f"bring {sum(items)} visual token(s): {pairs or 'nothing to fill'}; build the prompt with "
        "the token counts of the same items"
    )


def _count(counts: Sequence[int], number: int) -> str:
    return str(counts[number]) if number < len(counts) else "no"
