"""The projector: from vision to language width.

    patches_GPV -> patches_GPD

"mlp" is the paper's "2-layer MLP" (section 3.2), `mlp2x_gelu` in the released code. "align" adds a
step after it, much as AlignVLM does (https://arxiv.org/abs/2502.01341): every patch becomes an
average of the language model's own word embeddings, with learned weights. So visual tokens stay
inside the text-embedding space, which matters when hundreds of them precede a question. The price
is a product with the whole vocabulary for every patch.

Neither pools; that happens once, afterwards, in `frame_encoder`. The newline of AnyRes is here
because it is trained and kept together with these weights; `forward` does not use it.

Shape suffixes: G grids, P patches before pooling, V vision width, D language-model width, W words
of the vocabulary.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from longva_ray.vision.anyres import Newline

ProjectorKind = Literal["mlp", "align"]


SHARPNESS = 4.0
"""Of the softmax in use. Trained this sharp from its random beginning it hardly learns. A soft one
settles for averages over dozens of words: they name a frame, but among hundreds of frames it is not
always found."""


TILE_WEIGHTS = 2**27
"""Weights of the softmax that are computed at a time, 0.5 GiB in float32. For 16 grids of 576
patches and 152K words there are ten times as many."""


class Projector(nn.Module):
    """Linear - activation - Linear; the layers are named as in transformers' Llava.

    Attributes:
        newline: None without one.
        words: what "align" adds, None for "mlp".
    """

    def __init__(
        self,
        vision_width: int,
        width: int,
        *,
        hidden_act: str,
        newline: bool = False,
        num_words: int | None = None,
    ) -> None:
        """`num_words`: size of the vocabulary for "align", None for "mlp"."""
        super().__init__()
        self.linear_1 = nn.Linear(vision_width, width)
        from transformers.activations import ACT2FN  # takes seconds

        self.act = ACT2FN[hidden_act]
        self.linear_2 = nn.Linear(width, width)
        self.newline = Newline(width) if newline else None
        self.words = None if num_words is None else WordAverage(num_words, width)

    def forward(self, patches_GPV: Tensor) -> Tensor:
        patches_GPD = self.linear_2(self.act(self.linear_1(patches_GPV)))
        return patches_GPD if self.words is None else self.words(patches_GPD)


class WordAverage(nn.Module):
    """What a patch says, in the language model's words: their average under a softmax.

    The same embeddings are compared with and averaged. They are a copy, so that frames can be
    encoded without the language model, and a buffer, so that no training moves them away from it.
    As with dropout, training and use differ: the softmax is `SHARPNESS` times as sharp in use.
    """

    embeddings_WD: Tensor

    def __init__(self, num_words: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.register_buffer("embeddings_WD", torch.zeros(num_words, width))

    def forward(self, patches_GPD: Tensor) -> Tensor:
        tiles = patches_GPD.flatten(0, 1).split(max(1, TILE_WEIGHTS // len(self.embeddings_WD)))
        if len(tiles) == 1:
            return self._average(patches_GPD)
        # Of each tile only the patches are kept for the backward pass.
        averages = [checkpoint(self._average, tile_PD, use_reentrant=False) for tile_PD in tiles]
        return torch.cat(averages).view_as(patches_GPD)

    def _average(self, patches_PD: Tensor) -> Tensor:
        sharpness = 1.0 if self.training else SHARPNESS
        logits_PW = self.norm(patches_PD) @ self.embeddings_WD.T
        weights_PW = (sharpness * logits_PW.float()).softmax(-1)
        return weights_PW.to(logits_PW.dtype) @ self.embeddings_WD
