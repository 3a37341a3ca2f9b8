"""The images in a rank's share of a row, for stages that train the encoder or the projector.

    grids of a row + which visual tokens stand in this share -> VisualShare -> tokens_SD

A ring shares one row. Each rank encodes the grids whose tokens stand in its share, and exchanges
nothing: it needs no token of other grids, and the gradient of a token arises where the token is.
Trade-off: what the border between two chunks cuts is encoded on both sides. That is at most four
such grids a rank, or images with AnyRes. In return there is no gather of tokens and no reduction of
their gradients. Shares show about equally many grids, since images are most of the tokens.

Divided weights (ZeRO) are gathered when a layer runs, by all ranks together. So the encoder runs
equally often on every rank of the world, on a black grid where a rank has none left. How often
follows from the manifest of the shards.

Shapes: G grids, Y/X/C pixel axes, K tokens made of a grid, S visual tokens in this share, 2 the
grid of one and its number there, D width.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.checkpoint import checkpoint

from longva_ray.vision.anyres import NEWLINE
from longva_ray.vision.encoding import GridSettings
from longva_ray.vision.frame_encoder import FrameEncoder


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VisualShare:
    """The images in a rank's share of a row."""

    batches: tuple[torch.Tensor, ...]
    """Grids G Y X C (uint8) on the CPU, one entry for each run of the encoder: all rows of a step
    are read before the first is computed."""
    source_S2: torch.Tensor
    """Of every visual token of the share, in order: its grid among all in the batches, and its
    number there (`vision.encoding`)."""

    @classmethod
    def of(
        cls,
        grids_GYXC: npt.NDArray[np.uint8],
        source_S2: torch.Tensor,
        num_runs: int,
        device: torch.device,
    ) -> "VisualShare":
        """Of a row's grids those that the share shows, in `num_runs` batches.

        Args:
            source_S2: of every visual token of the share, among all grids of the row.
        """
        source_S2 = source_S2.clone()
        in_grid_S = source_S2[:, 0] != NEWLINE
        grids, place = torch.unique(source_S2[in_grid_S, 0], return_inverse=True)
        source_S2[in_grid_S, 0] = place.to(source_S2.dtype)
        black_GYXC = np.zeros((1, *grids_GYXC.shape[1:]), dtype=np.uint8)
        parts = np.array_split(grids.numpy(), num_runs)
        batches = [grids_GYXC[part] if len(part) else black_GYXC for part in parts]
        return cls(
            batches=tuple(torch.from_numpy(batch) for batch in batches),
            source_S2=source_S2.to(device),
        )

    def encode(self, encoder: FrameEncoder, *, recompute: bool) -> torch.Tensor:
        """tokens_SD; `recompute` keeps pixels instead of the tower's activations."""

        tokens_GKD = [
            checkpoint(encoder.grid_tokens, grids_GYXC, use_reentrant=False)
            if recompute
            else encoder.grid_tokens(grids_GYXC)
            for grids_GYXC in self.batches
        ]
        return encoder.arrange(torch.cat(tokens_GKD), self.source_S2)


def encoder_runs(
    rows: Iterable[tuple[int, int]],
    grids: GridSettings,
    *,
    ring_size: int,
    grids_per_forward: int,
) -> int:
    """How often the encoder runs for rows that are read side by side, each given by its tokens and
    grids: never less than any rank needs, and the same for all."""
    most = 0
    for num_tokens, num_grids in rows:
        chunk = -(-num_tokens // (2 * ring_size))
        # A rank holds two such chunks.
        most = max(most, min(num_grids, 2 * grids.most_grids(chunk)))
    return max(1, -(-most // grids_per_forward))
