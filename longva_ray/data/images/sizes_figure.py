"""Sizes of images as 2D histograms, and the grids that each encoding makes of them.

sizes and summaries of datasets -> a PNG, a row for each: width x height, and images by grids
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from longva_ray.data.images.sizes import ImageSizes

BINS = 40

DPI = 150


def draw_sizes(
    datasets: Sequence[ImageSizes], summaries: Sequence[Mapping[str, Any]], path: Path
) -> None:
    """Draw datasets and what `summarise` says of them into a PNG file."""
    figure = Figure(figsize=(9.0, 3.4 * len(datasets)), layout="constrained")
    axes = figure.subplots(len(datasets), 2, squeeze=False)
    for (left, right), sizes, summary in zip(axes, datasets, summaries, strict=True):
        _histogram(left, sizes)
        _grids(right, summary)
    figure.savefig(path, dpi=DPI)


def _histogram(axis: Axes, sizes: ImageSizes) -> None:
    """As Figure 5 of the paper."""
    width_N, height_N = sizes.width_height_N2.T
    edges = np.linspace(0, sizes.width_height_N2.max() * 1.02, BINS + 1)
    image = axis.hist2d(width_N, height_N, bins=[edges, edges], norm=LogNorm())[3]
    axis.figure.colorbar(image, ax=axis, label="images")
    axis.set_title(f"{sizes.name}: {len(width_N):,} images", fontsize=10)
    axis.set_xlabel("width")
    axis.set_ylabel("height")


def _grids(axis: Axes, summary: Mapping[str, Any]) -> None:
    for place, (encoding, name) in enumerate((("unires", "UniRes"), ("anyres", "AnyRes"))):
        found = summary[encoding]
        grids = np.array(list(found["images_by_grids"]))
        axis.bar(
            grids + 0.4 * (place - 0.5),
            list(found["images_by_grids"].values()),
            width=0.4,
            label=f"{name}: {found['mean_tokens']:,.0f} tokens an image",
        )
    axis.set_xlabel("grids of an image, AnyRes with its base image")
    axis.set_ylabel("images")
    axis.legend(fontsize=8)
