"""The projector: two linear layers with a GELU between, from vision to language width.

    patches_GPV -> patches_GPD

The paper's "2-layer MLP" (section 3.2), `mlp2x_gelu` in the released code. It does not pool: that
happens once, after it, in `frame_encoder`. The newline of AnyRes lives here because it is trained
and kept together with these weights; `forward` does not use it.

Shape suffixes: G grids, P patches before pooling, V vision width, D language-model width.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers.activations import ACT2FN

from longva_ray.vision.anyres import Newline


class Projector(nn.Module):
    """Linear - activation - Linear; the layers are named as in transformers' Llava.

    Attributes:
        newline: None without one.
    """

    def __init__(
        self, vision_width: int, width: int, *, hidden_act: str, newline: bool = False
    ) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(vision_width, width)
        self.act = ACT2FN[hidden_act]
        self.linear_2 = nn.Linear(width, width)
        self.newline = Newline(width) if newline else None

    def forward(self, patches_GPV: Tensor) -> Tensor:
        hidden_GPD = self.act(self.linear_1(patches_GPV))
        return self.linear_2(hidden_GPD)
