"""Models named on the command line."""

import pytest

from longva_ray.evaluate.baselines import PAPER_ROPE_BASES
from longva_ray.evaluate.subjects import named_subjects


def test_the_paper_s_models_are_shown_by_its_names() -> None:
    names = ("mine", "longva", "longva-anyres", "llava-next", "training-free")
    found = named_subjects([f"{name}=org/{name}" for name in names], [], "float32")
    assert [subject.name for subject in found] == [
        *("mine", "LongVA", "LongVA (AnyRes)", "LLaVA-NeXT-style", "training-free RoPE")
    ]
    assert [subject.path for subject in found] == [f"org/{name}" for name in names]
    assert [subject.try_bases for subject in found] == [(), (), (), (), PAPER_ROPE_BASES]


@pytest.mark.parametrize("models", [["a=/1", "a=/2"], ["longva=/1", "LongVA=/2"], ["=/1"], ["a="]])
def test_two_models_of_one_name_are_refused(models: list[str]) -> None:
    with pytest.raises(ValueError, match="every name once"):
        named_subjects(models, [], "float32")
