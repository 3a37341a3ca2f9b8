"""Pictures of scenes: right colours on dim backgrounds, things told apart, all from a seed."""

from __future__ import annotations

import numpy as np
import pytest

from longva_ray.tiny.drawing import DIM, Frame, draw
from longva_ray.tiny.world import COLOURS, THINGS, Scene

SIZE = 112


def picture(scene: Scene, seed: int = 0) -> Frame:
    return draw(scene, SIZE, np.random.default_rng(seed))


def thing_pixels(frame_YXC: Frame) -> np.ndarray:
    """Where something brighter than any background is."""
    is_thing_YX: np.ndarray = frame_YXC.max(axis=-1) > 255 * DIM + 30
    return is_thing_YX


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("seed", range(4))
def test_a_thing_is_whole_and_neither_tiny_nor_huge(thing: str, seed: int) -> None:
    is_thing_YX = thing_pixels(picture(Scene("white", thing), seed))
    rows, columns = np.nonzero(is_thing_YX)
    assert rows.min() > 0
    assert columns.min() > 0
    assert max(rows.max(), columns.max()) < SIZE - 1
    assert 0.35 * SIZE < max(np.ptp(rows), np.ptp(columns)) < 0.95 * SIZE
    assert 0.02 < is_thing_YX.mean() < 0.6


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("seed", range(8))
def test_the_nearest_colour_is_the_right_one(colour: str, seed: int) -> None:
    frame_YXC = picture(Scene(colour, "square"), seed)
    seen_C = np.median(frame_YXC[thing_pixels(frame_YXC)], axis=0)
    distances = {
        name: float(np.linalg.norm(seen_C - np.array(rgb))) for name, rgb in COLOURS.items()
    }
    assert min(distances, key=lambda name: distances[name]) == colour


def test_backgrounds_are_dim_and_vary() -> None:
    corners = []
    for seed in range(20):
        frame_YXC = picture(Scene("white", "circle"), seed)
        background = frame_YXC[~thing_pixels(frame_YXC)]
        assert np.percentile(background.max(axis=-1), 90) <= 255 * DIM + 1
        corners.append(tuple(frame_YXC[0, 0]))
    assert len(set(corners)) > 15


def test_things_differ_by_more_than_two_pictures_of_one_thing() -> None:
    """Silhouettes brought to one place and size overlap less between things than within one."""

    def mask(thing: str, seed: int) -> np.ndarray:
        is_thing_YX = thing_pixels(picture(Scene("white", thing), seed))
        rows, columns = np.nonzero(is_thing_YX)
        tight = is_thing_YX[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        take = [np.linspace(0, side - 1, 24).astype(int) for side in tight.shape]
        return tight[np.ix_(*take)]

    things = ("star", "house", "seven")
    masks = {thing: [mask(thing, seed) for seed in range(3)] for thing in things}
    for thing, own in masks.items():
        same = (own[0] == own[1]).mean()
        others = [(own[0] == other[2]).mean() for name, other in masks.items() if name != thing]
        assert same > max(others)


def test_a_seed_decides_everything() -> None:
    scene = Scene("blue", "K")
    np.testing.assert_array_equal(picture(scene, 1), picture(scene, 1))
    assert (picture(scene, 1) != picture(scene, 2)).any()


def test_any_size_but_none_too_small() -> None:
    rng = np.random.default_rng(0)
    for size in (16, 57, 300):
        frame_YXC = draw(Scene("red", "heart"), size, rng)
        assert frame_YXC.shape == (size, size, 3)
        assert frame_YXC.dtype == np.uint8
    with pytest.raises(ValueError, match="at least 16"):
        draw(Scene("red", "heart"), 15, rng)
