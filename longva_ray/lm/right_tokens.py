"""Which labelled tokens a model finds the likeliest: hidden states (L, D) -> booleans (L,).

Scores over the vocabulary are never written out whole: they are computed where there is a label,
tile by tile, as those of the loss (`lm.tiled_loss`).
Shapes: L tokens on this rank, D width, V words, S tokens of one tile.
"""

import torch

from longva_ray.lm.tiled_loss import TILE_BYTES


def right_tokens(
    hidden: torch.Tensor,
    weight_VD: torch.Tensor,
    labels: torch.Tensor,
    bias_V: torch.Tensor | None = None,
    *,
    ignore_index: int = -100,
) -> torch.Tensor:
    """True where the label has the highest score, False elsewhere and without a label.

    Args:
        hidden: (..., D).
        labels: (...), of the same leading shape as `hidden`.
    """
    hidden_LD, labels_L = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    right_L = torch.zeros_like(labels_L, dtype=torch.bool)
    labelled = (labels_L != ignore_index).nonzero().squeeze(1)
    for rows_S in torch.split(labelled, max(1, TILE_BYTES // (4 * weight_VD.shape[0]))):
        scores_SV = torch.nn.functional.linear(hidden_LD[rows_S], weight_VD, bias_V)
        right_L[rows_S] = scores_SV.argmax(dim=-1) == labels_L[rows_S]
    return right_L.view_as(labels)
