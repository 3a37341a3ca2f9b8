"""Where sentences end, for tokenizers of every kind, and exact lengths."""

from pathlib import Path

import pytest
from byte_tokenizer import byte_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from longva_ray.evaluate.text.haystack import Haystack, read_essays
from longva_ray.tiny.tokenizer import tiny_tokenizer

TEXT = (
    'One pound 3.5 is what it cost. "Why so?" asked Tom! He (as ever.) laughed\n'
    "A line of its own\n\nA na\u00efve end \u2026 here. And the rest without"
)


ENDS = [
    "what it cost.",
    'Why so?"',
    "asked Tom!",
    "(as ever.)",
    "laughed",
    "of its own",
    "here.",
]
"""The text up to each sentence end, by its last characters."""


def trained(kind: str) -> PreTrainedTokenizerFast:
    """Tokenizers in the manner of GPT-2 (spaces begin words), of Qwen (full stop and newline are
    one token) and of LLaMA (spaces are a letter)."""
    corpus = [read_essays(None), TEXT]
    tokenizer = Tokenizer(models.BPE())
    if kind == "llama":
        tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
        trainer = trainers.BpeTrainer(vocab_size=600)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=False, use_regex=kind == "gpt2"
        )
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


KINDS = {
    "byte": byte_tokenizer,
    "tiny": tiny_tokenizer,
    "gpt2": lambda: trained("gpt2"),
    "merged": lambda: trained("merged"),
    "llama": lambda: trained("llama"),
}


@pytest.fixture(scope="module", params=sorted(KINDS))
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return KINDS[request.param]()


def before(tokenizer: PreTrainedTokenizerFast, haystack: Haystack, cut: int) -> str:
    return str(tokenizer.decode(haystack.token_ids[:cut]))


def test_every_cut_is_the_end_of_a_sentence(tokenizer: PreTrainedTokenizerFast) -> None:
    haystack = Haystack(TEXT, tokenizer, min_tokens=1)
    texts = [before(tokenizer, haystack, cut).rstrip() for cut in haystack.cuts]
    assert texts[0] == ""
    assert all(text.endswith(tuple(ENDS)) for text in texts[1:]), texts


def test_bytes_are_cut_at_every_sentence_end_and_nowhere_else() -> None:
    tokenizer = byte_tokenizer()
    haystack = Haystack(TEXT, tokenizer, min_tokens=1)
    texts = {before(tokenizer, haystack, cut).rstrip() for cut in haystack.cuts} - {""}
    assert sorted(texts) == sorted(TEXT[: TEXT.index(end) + len(end)] for end in ENDS)


@given(target=st.integers(0, 4000), size=st.integers(1, 4000))
@settings(max_examples=60, deadline=None)
def test_a_needle_goes_to_the_nearest_sentence_end_that_is_inside(target: int, size: int) -> None:
    haystack = _essays_in_bytes()
    place = haystack.snap(target, size)
    inside = [cut for cut in haystack.cuts if cut <= size]
    assert place in inside
    assert abs(place - target) == min(abs(cut - target) for cut in inside)


def _essays_in_bytes(cache: dict[str, Haystack] = {}) -> Haystack:  # noqa: B006
    if "haystack" not in cache:
        cache["haystack"] = Haystack(read_essays(None), byte_tokenizer(), min_tokens=4000)
    return cache["haystack"]


def test_short_essays_are_repeated_to_any_length(tokenizer: PreTrainedTokenizerFast) -> None:
    haystack = Haystack(TEXT, tokenizer, min_tokens=1500)
    assert len(haystack.token_ids) >= 1500
    assert haystack.repeats > 1
    assert before(tokenizer, haystack, 1500).count("Why so?") >= 4


def test_essays_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.txt").write_text(f"This is {name}.\n")
    (tmp_path / "d.md").write_text("Not an essay.")
    assert read_essays(str(tmp_path)) == "This is a.\n\nThis is b.\n\nThis is c.\n\n"


def test_a_folder_without_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no text in .*\*\.txt"):
        read_essays(str(tmp_path))


def test_an_essay_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_bytes("a caf\u00e9.".encode("latin-1"))
    with pytest.raises(ValueError, match=r"old\.txt is not UTF-8 \(byte 5: "):
        read_essays(str(tmp_path))
