"""Splicing against a plain loop, and errors that give both counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from longva_ray.lm.splice import embed_prompt, run_lengths

IMAGE, VIDEO = 1000, 1001  # far outside the table of 50


@dataclass(frozen=True)
class Loaded:
    model: PreTrainedModel
    placeholder_ids: Sequence[int] = (IMAGE, VIDEO)


torch.manual_seed(0)


LM = Loaded(
    Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=50, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1,
        )
    )
)  # fmt: skip


pieces = st.lists(
    st.one_of(
        st.lists(st.integers(0, 49), min_size=1, max_size=4),
        st.tuples(st.sampled_from([IMAGE, VIDEO]), st.integers(1, 5)),
    )
)


@given(pieces)
@settings(deadline=None)
def test_equals_a_plain_loop(prompt: list[list[int] | tuple[int, int]]) -> None:
    table = LM.model.get_input_embeddings().weight
    ids: list[int] = []
    items: list[Tensor] = []
    wanted: list[Tensor] = [torch.empty(0, 8)]
    for piece in prompt:
        if isinstance(piece, tuple):
            items.append(torch.randn(piece[1], 8))
            ids += [piece[0]] * piece[1]
            wanted.append(items[-1])
        else:
            ids += piece
            wanted.append(table[piece])
    spliced_1TD = embed_prompt(LM, torch.tensor(ids, dtype=torch.int64), items)
    assert spliced_1TD.shape == (1, len(ids), 8)
    assert torch.equal(spliced_1TD[0], torch.cat(wanted))


def test_grids_of_an_item_follow_each_other() -> None:
    ids_T = torch.tensor([1, *[VIDEO] * 6, 2])
    tokens_GQD = torch.randn(3, 2, 8)
    spliced = embed_prompt(LM, ids_T, [tokens_GQD])
    assert torch.equal(spliced, embed_prompt(LM, ids_T, [tokens_GQD.reshape(6, 8)]))


def test_gradients_reach_text_and_visual_tokens() -> None:
    tokens_QD = torch.randn(2, 8, requires_grad=True)
    table = LM.model.get_input_embeddings().weight
    table.grad = None
    embed_prompt(LM, torch.tensor([7, IMAGE, IMAGE]), [tokens_QD]).sum().backward()
    assert tokens_QD.grad is not None
    assert torch.equal(tokens_QD.grad, torch.ones(2, 8))
    assert table.grad is not None
    assert torch.equal(table.grad[7], torch.ones(8))
    assert table.grad.abs().sum() == 8  # id 0 stands in for placeholders and must stay untouched


def test_tokens_take_the_models_dtype() -> None:
    spliced = embed_prompt(LM, torch.tensor([IMAGE]), [torch.ones(1, 8, dtype=torch.bfloat16)])
    assert spliced.dtype == torch.float32


@pytest.mark.parametrize(
    ("ids", "lengths", "told"),
    [
        ([1, VIDEO, VIDEO], [3], r"item 0: 2 placeholder\(s\), 3 visual token\(s\)"),
        ([1, VIDEO], [], r"item 0: 1 placeholder\(s\), no visual token\(s\)"),
        ([1, 2], [2], r"item 0: no placeholder\(s\), 2 visual token\(s\)"),
        # the sums agree, the items do not
        ([IMAGE, 1, IMAGE, IMAGE], [2, 1], r"item 0: 1 .* 2 .*; item 1: 2 .* 1 "),
        ([IMAGE, 1, IMAGE, IMAGE], [3], r"3 placeholder\(s\) in 2 run\(s\) but 1 item\(s\)"),
    ],
)
def test_misalignment_gives_both_counts(ids: list[int], lengths: list[int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        embed_prompt(LM, torch.tensor(ids), [torch.zeros(length, 8) for length in lengths])


def test_the_error_stays_short_for_many_items() -> None:
    with pytest.raises(ValueError, match=r"\.\.\.; build") as caught:
        embed_prompt(LM, torch.tensor([1]), [torch.zeros(1, 8)] * 1000)
    assert len(str(caught.value)) < 1000


def test_another_models_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="width 9 but the language model has 8"):
        embed_prompt(LM, torch.tensor([IMAGE]), [torch.zeros(1, 9)])


def test_run_lengths_end_at_the_end_of_a_row() -> None:
    mask_BT = torch.tensor([[1, 0, 1, 1], [1, 1, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)
    assert run_lengths(mask_BT) == [1, 2, 2, 1]
    assert run_lengths(torch.zeros(2, 3, dtype=torch.bool)) == []
