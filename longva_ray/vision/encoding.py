"""UniRes or AnyRes through one interface: what of an image or a video becomes visual tokens.

    PIL image | frames_FYXC -> Cut: grids_GYXC for the encoder, source_S2 for what it makes of them

The encoder makes K tokens from a grid: its Q pooled ones and, with AnyRes, its P patches after them
(`FrameEncoder.grid_tokens`). A source says of one visual token which grid it is from, and which of
these K it is. So code that counts, packs or divides tokens need not know an encoding.

Shape suffixes: G grids, F frames, Y/X/C pixel axes, P and Q patches before and after pooling, S
visual tokens, 2 the grid of a token and its number there.
"""

# No `from __future__ import annotations`: manifests are read by the types of their fields.

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from longva_ray.video.fitting import Fitting
from longva_ray.vision import anyres, unires
from longva_ray.vision.fit_image import whole_image
from longva_ray.vision.unires import GridRule
from longva_ray.vision.upright_image import upright_rgb

Encoding = Literal["unires", "anyres"]


MAX_GRIDS: dict[Encoding, int] = {"unires": unires.MAX_GRIDS, "anyres": anyres.MAX_GRIDS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """An image or a video in grids."""

    grids_GYXC: NDArray[np.uint8]
    source_S2: NDArray[np.int32]
    """Of every visual token, in order: its grid, and its number among the tokens of that grid;
    `anyres.NEWLINE` in place of a grid for the learned newline."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GridSettings:
    """How a checkpoint turns images and videos into grids and grids into tokens."""

    grid_size: int
    tokens_per_grid: int
    """After pooling, which are the tokens of a frame."""
    max_grids: int
    grid_rule: GridRule
    frame_fitting: Fitting
    encoding: Encoding = "unires"
    pool_stride: int = 2

    def image(self, image: Image.Image) -> Cut:
        """An image of any mode and size, upright as its EXIF says."""
        rgb = upright_rgb(image)
        grids_GYXC = unires.split_image(
            rgb,
            rule=self.grid_rule,
            fitting=self.frame_fitting,
            grid_size=self.grid_size,
            max_grids=self.max_grids,
        )
        return self.pooled(grids_GYXC) if self.encoding == "unires" else self._map(rgb, grids_GYXC)

    def count(self, width: int, height: int) -> tuple[int, int]:
        """How many grids and visual tokens `image` makes of an upright image of that size."""
        columns, rows = self._shape(width, height)
        if self.encoding == "unires":
            return columns * rows, columns * rows * self.tokens_per_grid
        return 1 + columns * rows, len(self._map_sources(width, height))

    def _map(self, rgb: Image.Image, grids_GYXC: NDArray[np.uint8]) -> Cut:
        """The AnyRes image of these grids."""
        base_GYXC = whole_image(rgb, fitting=self.frame_fitting, grid_size=self.grid_size)
        return Cut(
            grids_GYXC=np.concatenate([base_GYXC, grids_GYXC]),
            source_S2=self._map_sources(*rgb.size),
        )

    def _map_sources(self, width: int, height: int) -> NDArray[np.int32]:
        columns, rows = self._shape(width, height)
        return anyres.image_sources(
            width,
            height,
            columns=columns,
            rows=rows,
            fitting=self.frame_fitting,
            side=isqrt(self.tokens_per_grid) * self.pool_stride,
            first_patch=self.tokens_per_grid,
        )

    def _shape(self, width: int, height: int) -> tuple[int, int]:
        """Columns and rows of grids."""
        return unires.grid_shape(
            width, height, rule=self.grid_rule, grid_size=self.grid_size, max_grids=self.max_grids
        )

    def pooled(self, grids_GYXC: NDArray[np.uint8]) -> Cut:
        """All pooled tokens of these grids in raster order: the frames of a video, with UniRes the
        grids of an image."""
        num_grids, per_grid = len(grids_GYXC), self.tokens_per_grid
        grid_S = np.repeat(np.arange(num_grids), per_grid)
        number_S = np.tile(np.arange(per_grid), num_grids)
        source_S2 = np.stack([grid_S, number_S], axis=-1).astype(np.int32)
        return Cut(grids_GYXC=grids_GYXC, source_S2=source_S2)

    def most_grids(self, num_tokens: int) -> int:
        """A bound on the grids that tokens next to each other come from.

        Tokens stand together by grid with UniRes, and by image with AnyRes. Either has no fewer
        tokens than a pooled grid, and one may be cut at each end. For AnyRes the bound is loose.
        """
        together = num_tokens // self.tokens_per_grid + 2
        return together if self.encoding == "unires" else together * (1 + self.max_grids)


def join_sources(
    sources: Sequence[NDArray[np.int32]], num_grids: Sequence[int]
) -> NDArray[np.int32]:
    """Sources of items whose grids follow each other: source_S2 of each -> source_S2 of all."""
    joined = [np.zeros((0, 2), np.int32)]
    first = 0
    for source_S2, number in zip(sources, num_grids, strict=True):
        moved_S2 = source_S2.copy()
        moved_S2[source_S2[:, 0] != anyres.NEWLINE, 0] += first
        joined.append(moved_S2)
        first += number
    return np.concatenate(joined)
