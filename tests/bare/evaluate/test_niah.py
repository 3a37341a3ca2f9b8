"""Prompts of the text needle test, and models whose score is known."""

import dataclasses

import pytest
from byte_tokenizer import byte_tokenizer

from longva_ray.evaluate.subjects import Subject
from longva_ray.evaluate.text.haystack import read_essays
from longva_ray.evaluate.text.niah import (
    NiahPrompts,
    NiahTrial,
    NiahWorker,
    gives_number,
    plan_trials,
)
from longva_ray.settings.needles import NiahConfig
from longva_ray.tiny.tokenizer import tiny_tokenizer

ESSAYS = read_essays(None)


@pytest.mark.parametrize("tokenizer", [byte_tokenizer(), tiny_tokenizer()], ids=["byte", "tiny"])
def test_prompts_have_their_exact_length_and_hold_what_is_asked(
    tokenizer, small_grid: NiahConfig
) -> None:
    prompts = NiahPrompts(small_grid, ESSAYS, tokenizer)
    for trial in plan_trials(small_grid):
        prompt = prompts.build(trial)
        assert len(prompt.prompt_ids) + len(prompt.answer_ids) == trial.length
        text = tokenizer.decode(prompt.prompt_ids + prompt.answer_ids)
        assert text.startswith(small_grid.prefix)
        assert text.endswith(f"The magic number of Singapore is {prompt.number}")
        assert text.count("The magic number of Singapore is") == 2
        assert text.count("The magic number of") == 2 + trial.distractors
        assert tokenizer.decode(prompt.answer_ids).strip() == prompt.number
        assert len(prompt.number) == 7


def test_the_needle_lies_where_the_grid_wants_it() -> None:
    config = NiahConfig(lengths=(3000,), depths=(0.0, 0.3, 0.7, 1.0), samples=2, distractors=(0,))
    prompts = NiahPrompts(config, ESSAYS, byte_tokenizer())
    for trial in plan_trials(config):
        prompt = prompts.build(trial)
        text = byte_tokenizer().decode(prompt.prompt_ids)
        book = text[len(config.prefix) : text.index("</book>")]
        needle = f"\nThe special magic Singapore number is: {prompt.number}.\n"
        place = book.index(needle)
        assert place / (len(book) - len(needle)) == pytest.approx(trial.depth, abs=0.05)
        assert prompt.depth == pytest.approx(trial.depth, abs=0.05)
        assert place == 0 or book[:place].rstrip()[-1] in ".!?\"'\n)"
        assert (book[:place] + book[place + len(needle) :]) in ESSAYS


def test_trials_do_not_change_when_the_grid_grows(small_grid: NiahConfig) -> None:
    larger = dataclasses.replace(small_grid, depths=(0.0, 0.25, 0.5, 1.0), samples=7)
    tokenizer = byte_tokenizer()
    trial = NiahTrial(distractors=2, length=420, depth=0.5, sample=1)
    builds = [
        NiahPrompts(config, ESSAYS, tokenizer).build(trial) for config in (small_grid, larger)
    ]
    assert builds[0] == builds[1]
    other = dataclasses.replace(small_grid, seed=1)
    assert NiahPrompts(other, ESSAYS, tokenizer).build(trial).number != builds[0].number


def test_a_city_can_be_drawn_for_each_prompt(small_grid: NiahConfig) -> None:
    config = dataclasses.replace(small_grid, city=None, samples=12)
    prompts = NiahPrompts(config, ESSAYS, byte_tokenizer())
    endings = {
        byte_tokenizer().decode(prompts.build(trial).prompt_ids)[-25:]
        for trial in plan_trials(config)
    }
    assert len(endings) > 3


def test_a_length_without_room_is_an_error(small_grid: NiahConfig) -> None:
    config = dataclasses.replace(small_grid, lengths=(120,))
    prompts = NiahPrompts(config, ESSAYS, byte_tokenizer())
    with pytest.raises(ValueError, match="no room for a haystack"):
        prompts.build(plan_trials(config)[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depths": (0.5, 1.5)}, "depths"),
        ({"distractors": (8,)}, "more cities"),
        ({"city": "Atlantis"}, "not among --niah.cities"),
        ({"needle": "no number"}, "number"),
        ({"ring_size": 0}, "--niah.ring-size"),
        ({"worker_cpus": 0, "worker_gpus": 0}, "some CPU or GPU"),
    ],
)
def test_settings_that_cannot_work_are_errors(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NiahConfig(**settings)  # type: ignore[arg-type]


def subject(path: str) -> Subject:
    return Subject(name="model", path=path, dtype="float32")


def test_a_perfect_memory_scores_1_and_a_blind_model_0(
    oracle_lm: str, blind_lm: str, small_grid: NiahConfig
) -> None:
    trials = plan_trials(small_grid)
    perfect = NiahWorker(subject(oracle_lm), small_grid, ESSAYS)(trials)
    assert len(perfect) == 24
    assert all(outcome["exact"] and outcome["generated"] for outcome in perfect.values())
    assert all(outcome["answer"] in outcome["text"] for outcome in perfect.values())
    blind = NiahWorker(subject(blind_lm), small_grid, ESSAYS)(trials)
    assert not any(outcome["exact"] or outcome["generated"] for outcome in blind.values())
    assert all(outcome["predicted"] == "5555555" for outcome in blind.values())


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("3264359", True),
        ("3264359.", True),
        (" 3264359 and more", True),
        ("It is 3264359!", True),
        ("No3264359x", True),
        ("326435\n3264359", True),
        ("32643599..", False),
        ("13264359", False),
        ("3264 359", False),
        ("3264359.5", False),
        ("0.3264359", False),
        ("1,3264359", False),
        ("3264359,000", False),
        ("(3264359), or 5.", True),
        ("5, 3264359, 7", True),
        ("", False),
    ],
)
def test_a_free_answer_gives_the_number_and_no_longer_one(text: str, right: bool) -> None:
    assert gives_number(text, "3264359") is right


def test_prefix_reuse_changes_no_outcome(random_lm: str, small_grid: NiahConfig) -> None:
    trials = plan_trials(small_grid)
    plain = dataclasses.replace(small_grid, reuse_prefix=False)
    reused = NiahWorker(subject(random_lm), small_grid, ESSAYS)(trials)
    assert reused == NiahWorker(subject(random_lm), plain, ESSAYS)(trials)


def test_free_answers_can_be_left_out(blind_lm: str, small_grid: NiahConfig) -> None:
    config = dataclasses.replace(small_grid, generate=False)
    outcome = NiahWorker(subject(blind_lm), config, ESSAYS)(plan_trials(config)[:1]).popitem()[1]
    assert outcome["generated"] is outcome["text"] is None
    assert outcome["exact"] is False
