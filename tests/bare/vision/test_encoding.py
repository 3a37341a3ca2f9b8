"""What an image or a video becomes, whichever the encoding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from longva_ray.video.fitting import FITTINGS, LETTERBOXES, Fitting
from longva_ray.vision.anyres import NEWLINE
from longva_ray.vision.encoding import MAX_GRIDS, Encoding, GridSettings, join_sources
from longva_ray.vision.fit_image import whole_image
from longva_ray.vision.unires import split_image


def settings(encoding: Encoding = "unires", **changes: Any) -> GridSettings:
    chosen: dict[str, Any] = {
        "grid_size": 56,
        "tokens_per_grid": 4,
        "max_grids": MAX_GRIDS[encoding],
        "grid_rule": "paper",
        "frame_fitting": "letterbox",
        "encoding": encoding,
    }
    return GridSettings(**chosen | changes)


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("encoding", "rule", "size", "tokens"),
    [
        # 1920x1080 is 5x3 grids of 144 tokens by the paper, 6x4 by the released code.
        ("unires", "paper", (1920, 1080), 2160),
        ("unires", "released", (1920, 1080), 3456),
        # A base image of 24 x 24 patches, and lines of a map, each with a newline.
        ("anyres", "paper", (672, 672), 576 + 48 * 49),
        ("anyres", "paper", (1344, 336), 576 + 24 * 97),
        ("anyres", "paper", (300, 300), 576 + 24 * 25),
        # 2x2 grids by the released rule, whose bars above and below cover 10 and a half lines.
        ("anyres", "released", (1920, 1080), 576 + 28 * 49),
    ],
)
def test_tokens_of_known_sizes(
    encoding: Encoding, rule: str, size: tuple[int, int], tokens: int
) -> None:
    grids = settings(encoding, grid_size=336, tokens_per_grid=144, grid_rule=rule)
    cut = grids.image(noise(*size))
    assert len(cut.source_S2) == tokens
    assert grids.count(*size) == (len(cut.grids_GYXC), tokens)


def test_unires_shows_every_grid_as_a_video_shows_its_frames() -> None:
    image = noise(170, 120)
    cut = settings().image(image)
    expected = split_image(image, rule="paper", fitting="letterbox", grid_size=56)
    assert np.array_equal(cut.grids_GYXC, expected)
    assert cut.source_S2.tolist() == [[g, q] for g in range(len(expected)) for q in range(4)]
    for encoding in ("unires", "anyres"):
        video = settings(encoding).pooled(expected)
        assert np.array_equal(video.source_S2, cut.source_S2)
        assert video.grids_GYXC is expected


@pytest.mark.parametrize("fitting", FITTINGS)
def test_anyres_has_the_whole_image_first(fitting: Fitting) -> None:
    image = noise(200, 130)
    cut = settings("anyres", frame_fitting=fitting).image(image)
    base = whole_image(image, fitting=fitting, grid_size=56)
    tiles = split_image(image, rule="paper", fitting=fitting, grid_size=56, max_grids=4)
    assert len(tiles) == 3  # 3x2 would be too many
    assert np.array_equal(cut.grids_GYXC, np.concatenate([base, tiles]))
    shown = cut.source_S2[cut.source_S2[:, 0] != NEWLINE]
    assert len(np.unique(shown, axis=0)) == len(shown)
    # Pooled tokens come before patches, and are for frames.
    assert (shown[:, 1].min(), shown[:, 1].max()) == (4, 19)
    # Only a letterbox has bars, which are left out.
    assert (len(shown) < len(cut.grids_GYXC) * 16) == (fitting in LETTERBOXES)


def test_an_image_lying_on_its_side_is_cut_upright() -> None:
    upright = noise(56, 168)
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    lying.getexif()[0x0112] = 6
    for encoding in ("unires", "anyres"):
        cut, expected = settings(encoding).image(lying), settings(encoding).image(upright)
        assert np.array_equal(cut.grids_GYXC, expected.grids_GYXC)
        assert np.array_equal(cut.source_S2, expected.source_S2)


def test_items_joined_are_numbered_on() -> None:
    newline = [NEWLINE, 0]
    first, second = np.array([[0, 5], newline, [1, 3]]), np.array([[1, 7], [0, 0], newline])
    joined = join_sources([first, second, second], [2, 2, 2])
    assert joined.tolist() == [
        [0, 5], newline, [1, 3], [3, 7], [2, 0], newline, [5, 7], [4, 0], newline
    ]  # fmt: skip
    assert first.tolist() == [[0, 5], newline, [1, 3]]
    assert join_sources([], []).shape == (0, 2)


@pytest.mark.parametrize("encoding", ["unires", "anyres"])
def test_no_run_of_tokens_touches_more_grids_than_said(encoding: Encoding) -> None:
    grids = settings(encoding)
    cuts = [grids.image(noise(*size)) for size in [(224, 56), (56, 56), (112, 112), (170, 90)] * 2]
    cuts.append(grids.pooled(np.zeros((9, 56, 56, 3), np.uint8)))
    sources = join_sources([cut.source_S2 for cut in cuts], [len(cut.grids_GYXC) for cut in cuts])
    for length in (1, 2, 5, 17, 40, 100):
        touched = [
            len(set(sources[start : start + length, 0].tolist()) - {NEWLINE})
            for start in range(len(sources))
        ]
        assert max(touched) <= grids.most_grids(length)
