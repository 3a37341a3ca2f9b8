"""What needle tests share: which settings name a ledger, and where the baseline stands."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import pytest

from longva_ray.evaluate.experiment import DECIDING, deciding, try_models
from longva_ray.evaluate.questions.run import DECIDING_QUESTIONS
from longva_ray.evaluate.subjects import Subject
from longva_ray.evaluate.text.run import DECIDING_NIAH
from longva_ray.settings.needles import NiahConfig, VniahConfig
from longva_ray.settings.questions import QuestionsConfig

WHERE_OR_HOW_FAST = {"max_workers", "worker_cpus", "worker_gpus", "reuse_prefix"}


# A trial's key has its place in the grid; essays, needles and videos are fingerprinted by content
CHOOSE_TRIALS = {
    NiahConfig: {
        *("lengths", "depths", "samples", "distractors"),
        *("rope_bases", "perplexity_windows", "essays", "world"),
    },
    VniahConfig: {
        *("frames", "depths", "floor", "rope_bases", "compare_plain"),
        *("needles", "world", "fitting", "seed"),
    },
    QuestionsConfig: {"frame_counts", "rope_bases"},
}


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (NiahConfig, DECIDING_NIAH),
        (VniahConfig, DECIDING),
        (QuestionsConfig, DECIDING_QUESTIONS),
    ],
)
def test_every_setting_is_known_to_decide_or_not(config: type, names: Sequence[str]) -> None:
    """A new setting has to be put somewhere, or ledgers would mix what it decides."""
    fields = {field.name for field in dataclasses.fields(config)}
    assert fields == set(names) | WHERE_OR_HOW_FAST | CHOOSE_TRIALS[config]
    assert not set(names) & (WHERE_OR_HOW_FAST | CHOOSE_TRIALS[config])
    assert deciding(config(), names) == {name: getattr(config(), name) for name in names}


def result(subject: Subject) -> dict[str, Any]:
    """A test whose score is better the nearer the base is to 3."""
    score = 0.5 if subject.rope_base is None else 1 / (1 + abs(subject.rope_base - 3))
    return {"name": subject.name, "average": {"exact": {"score": score}}}


@pytest.mark.parametrize(
    ("raise_base_of", "names"),
    [
        ("first", ["a", "a, training-free best", "b"]),
        ("last", ["a", "b", "b, training-free best"]),
    ],
)
def test_the_baseline_follows_the_model_it_was_tried_on(
    raise_base_of: Literal["first", "last"], names: list[str]
) -> None:
    subjects = [Subject(name=name, path=name, dtype="float32") for name in "ab"]
    models, tried = try_models(result, subjects, (1.0, 2.0, 5.0), raise_base_of=raise_base_of)
    assert [model["name"] for model in models] == names
    raised = raise_base_of.replace("first", "a").replace("last", "b")
    assert [each["name"] for each in tried] == [f"{raised}, base {base}" for base in (1, 2, 5)]
    (best,) = (model for model in models if "best_of" in model)
    assert (best["best_of"], best["average"]) == (3, tried[1]["average"])
    assert try_models(result, subjects, (), raise_base_of=raise_base_of)[1] == []


@pytest.mark.parametrize(("given", "best"), [((), 4.0), ((1.0, 5.0, 3.5, 9.0), 3.5)])
def test_a_model_that_is_named_training_free_is_the_baseline(
    given: tuple[float, ...], best: float
) -> None:
    """Wherever it stands, and no other is tried; bases in the settings replace its own."""
    plain, raised, other = (Subject(name=name, path=name, dtype="float32") for name in "abc")
    raised = dataclasses.replace(raised, try_bases=(8.0, 4.0, 16.0))
    models, tried = try_models(result, [plain, raised, other], given, raise_base_of="last")
    assert [model["name"] for model in models] == ["a", "b", "c"]
    assert [each["name"] for each in tried] == [
        f"b, base {base:g}" for base in given or raised.try_bases
    ]
    found = result(dataclasses.replace(raised, rope_base=best))
    assert models[1] == found | {"best_of": len(tried)}


def test_the_best_base_is_best_by_the_score_of_the_test() -> None:
    subjects = [Subject(name="a", path="a", dtype="float32")]
    models, _ = try_models(
        result,
        subjects,
        (3.0, 9.0),
        raise_base_of="last",
        score=lambda found: -found["average"]["exact"]["score"],
    )
    assert models[1]["average"] == {"exact": {"score": 1 / 7}}
