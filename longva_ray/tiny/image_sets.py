"""The vision half of longva-tiny: which images each stage of alignment shows, and the V-NIAH grid.

Images have at most `LONGEST_IMAGE` cells, and with its questions no conversation is longer than
what the language model was pretrained on (`curriculum.PRETRAINED_TOKENS`): alignment stretches no
context. The longest haystack that fits into the extended one is ten times as long as such an image.
How the stages are trained is in the recipe (`longva_ray.recipes.tiny`), as for every other model.
"""

from __future__ import annotations

import dataclasses

from longva_ray.settings.needles import VniahConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSet:
    """How many images, and of which kind."""

    count: int
    grids: tuple[int, ...]
    """Numbers of cells that an image may have, each equally likely."""
    cell: int = 56
    """Side of a cell in pixels: the grid size of the model."""
    in_words: float = 0.0
    """Conversations without an image, for one with: the scenes are told in words. LLaVA's data has
    such too; here they keep the language model from forgetting what it was extended on."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"{self.count} images; wanted at least 1")
        if not self.grids or min(self.grids) < 1:
            raise ValueError(f"want numbers of cells of at least 1, got {self.grids}")


LONGEST_IMAGE = 24


CAPTIONS = ImageSet(count=8000, grids=(1, 2, 3, 4))
"""What all cells of an image show: for stage 1."""


CONVERSATIONS = ImageSet(
    count=12000,
    grids=(1, 2, 4, 6, 9, 12, 16, 20, LONGEST_IMAGE),
    in_words=0.3,
)
"""Questions about single cells: for both stages."""


SMALL_CONVERSATIONS = dataclasses.replace(CONVERSATIONS, grids=CAPTIONS.grids)
"""Those of AnyRes, which would shrink the cells of larger images until they cannot be read."""


FRAMES = (16, 32, 64, 128, 192, 240, 360)
"""Haystacks: as long as an image of alignment, up to what the context has room for, and beyond."""


SEEDS = (1, 2, 3)
"""Of haystacks and needles, all of them other pictures than those of training."""


NEEDLES = 12


def vniah_config(*, seed: int = 0) -> VniahConfig:
    """The visual needle test in the tiny world."""
    return VniahConfig(
        dtype="float32",
        worker_gpus=0,
        worker_cpus=0.5,
        frames=FRAMES,
        depths=(0.0, 0.25, 0.5, 0.75, 1.0),
        world="tiny",
        seed=seed,
        prefill_chunk=160,
        extra_tokens=4,
    )
