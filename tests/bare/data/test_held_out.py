"""Which documents and samples are held out."""

import numpy as np
import pytest

from longva_ray.data.held_out import choose_held_out, digest_number
from longva_ray.data.images.chat import RawSample, shown
from longva_ray.settings.data import ImageDataConfig, TextDataConfig


def numbers(seed: int, contents: list[str]) -> np.ndarray:
    return np.array([digest_number(seed, content) for content in contents], np.uint64)


def test_a_number_or_a_share_that_follows_from_seed_and_content() -> None:
    contents = [f"document {number}" for number in range(50)]
    chosen = choose_held_out(numbers(0, contents), 5)
    assert chosen.sum() == 5
    assert np.array_equal(choose_held_out(numbers(0, contents), 0.1), chosen)
    assert not np.array_equal(choose_held_out(numbers(1, contents), 5), chosen)
    # Where a document stands, and what stands beside it, does not matter.
    turned = choose_held_out(numbers(0, contents[::-1]), 5)
    assert np.array_equal(turned[::-1], chosen)
    assert choose_held_out(numbers(0, contents), 0.001).sum() == 1


def test_equal_documents_stay_together() -> None:
    contents = [f"document {number // 2}" for number in range(20)]
    chosen = choose_held_out(numbers(3, contents), 3)
    assert np.array_equal(chosen[::2], chosen[1::2])
    assert chosen.sum() == 4


@pytest.mark.parametrize("wanted", [2, 0.9, 1])
def test_something_is_left_to_train_on(wanted: float) -> None:
    with pytest.raises(ValueError, match=rf"holding out {wanted} of 2 leaves nothing to train on"):
        choose_held_out(numbers(0, ["same", "same"]), wanted)


def test_samples_about_one_image_are_one() -> None:
    def sample(folder: str, **content: object) -> str:
        return shown(RawSample(sample_id="x", folder=folder, content=content))

    assert sample("a", image="1.png", conversations=[1]) == sample("a", image="1.png", id=2)
    assert sample("a", image="1.png") == sample("b", image="1.png"), "the data was moved"
    assert sample("a", image="1.png") != sample("a", image="2.png")
    assert sample("a", image="1.png") != sample("a", video="1.png")
    assert sample("a", conversations=["Hello"]) != sample("a", conversations=["Bye"])
    assert shown(RawSample(sample_id="x", folder="a", content="no object"))


@pytest.mark.parametrize("held_out", [0, -1, 1.5])
def test_neither_a_share_nor_a_number(held_out: float) -> None:
    with pytest.raises(ValueError, match=r"--text\.held-out must be a whole number, a share"):
        TextDataConfig(held_out=held_out)
    with pytest.raises(ValueError, match=r"--images\.held-out must be"):
        ImageDataConfig(held_out=held_out)
