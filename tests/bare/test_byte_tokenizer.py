"""The byte tokenizer: every text survives, ids are bytes, and it is the same every time."""

from __future__ import annotations

from pathlib import Path

from byte_tokenizer import BYTE_VOCABULARY_SIZE, byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

TOKENIZER = byte_tokenizer()


@given(st.text())
def test_any_text_survives(text: str) -> None:
    ids = TOKENIZER.encode(text, split_special_tokens=True)
    assert ids == list(text.encode())
    assert TOKENIZER.decode(ids) == text


def test_special_tokens_come_after_the_bytes() -> None:
    text = "<|endoftext|><|im_start|><|im_end|><image><video>"
    assert TOKENIZER.encode(text) == [256, 257, 258, 259, 260]
    assert TOKENIZER.decode([256, 257, 258, 259, 260]) == text
    assert TOKENIZER.decode([65, 257, 66, 260], skip_special_tokens=True) == "AB"
    assert (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id) == (256, 258)
    assert len(TOKENIZER) == BYTE_VOCABULARY_SIZE + 2


def test_it_is_deterministic_and_survives_saving(tmp_path: Path) -> None:
    first, second = byte_tokenizer(), byte_tokenizer()
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    first.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "<|im_start|>user\n<video>\nGr\u00fc\u00dfe, \u4f60\u597d \U0001f600 \x00  two<|im_end|>"
    assert loaded.encode(text) == first.encode(text)
    assert loaded.decode(loaded.encode(text)) == text
    assert loaded.padding_side == "left"
