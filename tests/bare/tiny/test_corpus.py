"""The tiny corpus: what is a label can be known, sizes are kept, and a seed decides everything."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from longva_ray.tiny.base_model import write_base
from longva_ray.tiny.corpus import LabelledText, documents, write_corpus
from longva_ray.tiny.corpus_plan import DOMAINS, CorpusPlan
from longva_ray.tiny.essays import write_essays
from longva_ray.tiny.tokenizer import tiny_tokenizer

CORPUS = CorpusPlan(
    num_tokens=60_000, shortest=64, longest=256, shares=tuple((name, 1 / 6) for name in DOMAINS)
)


@pytest.fixture(scope="module")
def corpus() -> list[LabelledText]:
    return list(documents(CORPUS, seed=1))


def labelled(document: LabelledText) -> list[str]:
    return [document.text[start:stop] for start, stop in document.labels]


def of(corpus: list[LabelledText], domain: str) -> list[LabelledText]:
    return [document for document in corpus if document.domain == domain]


def test_a_seed_decides_everything(corpus: list[LabelledText]) -> None:
    assert list(documents(CORPUS, seed=1)) == corpus
    assert next(documents(CORPUS, seed=2)) != corpus[0]


def test_sizes_and_shares(corpus: list[LabelledText]) -> None:
    tokenizer = tiny_tokenizer()
    lengths = [len(tokenizer.encode(document.text)) for document in corpus]
    assert CORPUS.num_tokens <= sum(lengths) < CORPUS.num_tokens + 2 * CORPUS.longest
    assert max(lengths) <= CORPUS.longest + 8
    counts = Counter(document.domain for document in corpus)
    assert set(counts) == set(DOMAINS)
    assert max(counts.values()) < 2 * min(counts.values())
    assert all(document.labels for document in corpus)


def test_a_label_of_a_list_is_the_colour_the_thing_was_listed_with(
    corpus: list[LabelledText],
) -> None:
    tellings = set()
    for document in of(corpus, "lists"):
        before = "a " if document.text.startswith(" a ") else ""
        tellings.add(before)
        listed = document.text[: document.labels[0][0]]
        for start, stop in document.labels:
            thing = document.text[:start].rsplit(" ", 1)[1]
            told = re.findall(rf"\b{before}{thing} (\w+)\b", listed)
            assert set(told) == {document.text[start:stop].strip()}
            assert len(told) == (1 if before else 2)
    assert tellings == {"a ", ""}


@pytest.mark.parametrize("domain", ["numbers", "essays"])
def test_a_labelled_number_stands_in_the_text(corpus: list[LabelledText], domain: str) -> None:
    for document in of(corpus, domain):
        hidden = document.text.split("\n", 1)[0]
        for label in labelled(document):
            number = re.search(r"\d{7}", label)
            assert number is not None
            assert number.group() in hidden


def test_labels_of_a_chat_are_the_answers(corpus: list[LabelledText]) -> None:
    for document in of(corpus, "chats"):
        assert document.text.count("<|im_start|>assistant\n") == len(document.labels)
        for start, stop in document.labels:
            assert document.text[:start].endswith("<|im_start|>assistant\n")
            assert document.text[start:stop].endswith("<|im_end|>")


def test_labels_of_a_recital_were_said_before(corpus: list[LabelledText]) -> None:
    tokenizer = tiny_tokenizer()
    for document in of(corpus, "recitals"):
        for start, stop in document.labels[:20]:
            pair = tokenizer.encode(document.text[:stop])[-2:]
            before = tokenizer.encode(document.text[:start])
            assert any(before[place : place + 2] == pair for place in range(len(before) - 1))


def test_files(tmp_path: Path) -> None:
    write_corpus(CORPUS, 1, tmp_path / "corpus.jsonl")
    first = json.loads((tmp_path / "corpus.jsonl").read_text().splitlines()[0])
    assert set(first) == {"text", "labels", "domain"}
    write_essays(tmp_path / "essays", 3, num_essays=2, num_sentences=20)
    essay = (tmp_path / "essays" / "essay-001.txt").read_text()
    assert essay.count(".") == 20


def test_shares_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"add up to 1, got \{'lists': 0.5\}"):
        CorpusPlan(num_tokens=1, shortest=64, longest=64, shares=(("lists", 0.5),))
    with pytest.raises(ValueError, match="48 <= shortest"):
        CorpusPlan(num_tokens=1, shortest=8, longest=64, shares=(("lists", 1.0),))


def test_a_checkpoint_keeps_its_tokenizer(tmp_path: Path) -> None:
    write_base(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "a star red. The magic number of Oslo is 1234567.\n"
    assert loaded.encode(text) == tiny_tokenizer().encode(text)
