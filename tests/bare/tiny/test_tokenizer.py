"""The tiny tokenizer: four tokens a scene, every text survives, the same every time."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from longva_ray.lm.prompt import build_prompt
from longva_ray.tiny.tokenizer import TINY_VOCABULARY_SIZE, tiny_tokenizer
from longva_ray.tiny.words import CITIES, vocabulary
from longva_ray.tiny.world import COLOURS, THINGS, TOKENS_A_SCENE, Scene, describe

TOKENIZER = tiny_tokenizer()


def tokens(text: str) -> list[str]:
    return [TOKENIZER.decode([number]) for number in TOKENIZER.encode(text)]


def test_every_scene_is_four_tokens_wherever_it_stands() -> None:
    for colour in COLOURS:
        for thing in THINGS:
            text = describe([Scene(colour, thing)] * 3) + "\n"
            assert len(TOKENIZER.encode(text)) == 3 * TOKENS_A_SCENE + 1
    assert tokens("a star red. a K blue.")[:5] == ["a", " star", " red", ".", " a"]


@given(st.text())
def test_any_text_survives(text: str) -> None:
    ids = TOKENIZER.encode(text, split_special_tokens=True)
    assert TOKENIZER.decode(ids) == text
    assert all(number < TINY_VOCABULARY_SIZE - 3 for number in ids)


def test_digits_go_in_pairs_and_unknown_words_are_bytes() -> None:
    assert tokens("is 31425.") == ["is", " 31", "42", "5", "."]
    assert tokens(" zebra") == list(" zebra")
    assert [tokens(f"of {city}")[1:] for city in CITIES] == [[f" {city}"] for city in CITIES]


def test_control_tokens_and_placeholders() -> None:
    text = "<|endoftext|><|im_start|><|im_end|><image><video>"
    size = TINY_VOCABULARY_SIZE
    assert TOKENIZER.encode(text) == [size - 3, size - 2, size - 1, size, size + 1]
    assert (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id) == (size - 3, size - 1)
    assert len(TOKENIZER) == size + 2 == 256 + len(vocabulary()) + 5


def test_a_prompt_has_no_unknown_words() -> None:
    messages = [
        {
            "role": "user",
            "content": [{"type": "video"}, {"type": "text", "text": "what colour is the K?"}],
        }
    ]
    ids = build_prompt(TOKENIZER, messages, [8]).tolist()
    words = [TOKENIZER.decode([number]) for number in ids]
    letters = [word for word in words if len(word) == 1 and word.isalpha()]
    assert not letters, "a word of the template or the question fell apart into bytes"
    assert words.count("<video>") == 8


def test_it_is_deterministic_and_survives_saving(tmp_path: Path) -> None:
    assert tiny_tokenizer().backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = (
        "<|im_start|>user\n<video>\nthe red star. Gr\u00fc\u00dfe, \u4f60\u597d \x00  42<|im_end|>"
    )
    assert loaded.encode(text) == TOKENIZER.encode(text)
    assert loaded.decode(loaded.encode(text)) == text
