"""AnyRes: a small image of everything first, then one map across all grids. The paper's ablation.

    image of columns x rows grids -> source_S2, where each of its S visual tokens comes from
    tokens_SD -> tokens_SD, with the learned newline in its places

Appendix B of the LongVA paper (https://arxiv.org/abs/2406.16852) and the `spatial_unpad` scheme of
LLaVA-NeXT (https://github.com/LLaVA-VL/LLaVA-NeXT, which transformers' LlavaNext has too):

    1. the patches of the base image: the whole image, fitted to one grid
    2. the patches of all grids as one map, without those of letterbox bars, row by row across the
       borders of grids, a newline after every row

Nothing is pooled, and an image has at most 4 grids (section 5.3: "the grid upper bound is set to 49
for UniRes while 4 for AnyRes", and UniRes has a quarter of the tokens a grid). With 24 x 24 patches
a 672 x 672 image of 2 x 2 grids has 576 + 48 * 49 = 2928 tokens; an image of one grid is shown
twice.

Frames of a video are pooled as with UniRes, 144 tokens each and no newline: the caption of Figure 4
counts 144 tokens a frame, and an early vision_niah/eval.sh of the released code encodes frames of
LLaVA-NeXT-Qwen2-extend-1.6, by its name the AnyRes model, with pooling 2 and without the option
that adds newlines. So the encodings differ in how images are shown in training.

LLaVA-NeXT squashes the base image to the grid; here it is fitted like every other image. Its
canvases are five of the seven with 2 to 4 grids; here the grid rule chooses (`unires`).

Shape suffixes: S visual tokens, 2 the grid of a token and its number there, D language-model width.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from longva_ray.video.fitting import LETTERBOXES, Fitting

MAX_GRIDS = 4  # paper, section 5.3; the base image is not counted


NEWLINE = -1  # in place of a grid


class Newline(nn.Module):
    """The learned token after every row of a map.

    A module with a `forward`, since trainers that divide weights gather them when a module runs.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.std = width**-0.5  # LLaVA-NeXT: about as long as an embedding
        self.weight = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.weight, std=self.std)

    def forward(self, tokens_SD: Tensor, is_newline_S: Tensor) -> Tensor:
        """tokens_SD with the newline in its places."""
        return torch.where(is_newline_S[:, None], self.weight, tokens_SD)


def image_sources(
    width: int,
    height: int,
    *,
    columns: int,
    rows: int,
    fitting: Fitting,
    side: int,
    first_patch: int,
) -> NDArray[np.int32]:
    """Where the tokens of an image come from, in order.

    Args:
        width, height: of the image, in pixels.
        columns, rows: of its grids. Grid 0 is the base image, the others follow in raster order.
        fitting: how the image was put on its canvas; only a letterbox leaves bars.
        side: patches along one side of a grid.
        first_patch: number of a grid's first patch among its tokens; the others follow.

    Returns:
        source_S2: grid, and number in the grid; (`NEWLINE`, 0) for a newline.
    """
    y = np.arange(rows * side)[:, None]
    x = np.arange(columns * side)[None]
    grid = 1 + y // side * columns + x // side
    patch = y % side * side + x % side
    top, left = 0, 0
    if fitting in LETTERBOXES:
        top, left = _bars(width, height, columns * side, rows * side)
    shown = np.stack([grid, first_patch + patch], axis=-1)[
        top : rows * side - top, left : columns * side - left
    ]
    lines = np.pad(shown, ((0, 0), (0, 1), (0, 0)))
    lines[:, -1, 0] = NEWLINE
    base = np.stack([np.zeros(side * side), first_patch + np.arange(side * side)], axis=-1)
    return np.concatenate([base, lines.reshape(-1, 2)]).astype(np.int32)


def _bars(width: int, height: int, columns: int, rows: int) -> tuple[int, int]:
    """Rows of patches of a bar at the top, columns of one at the left; opposite ones are alike.

    LLaVA-NeXT's rounding, which drops patches that the image hardly reaches. An image thinner than
    one patch is left to the base image.
    """
    if width * rows > height * columns:
        return (rows - height * columns // width) // 2, 0
    return 0, (columns - width * rows // height) // 2
