"""The CLIP vision transformer up to the layer whose output is used, without its CLS token.

    pixels_GCYX (normalised) -> patches_GPV

The output equals `CLIPVisionModel(...).hidden_states[feature_layer][:, 1:]` of transformers (layer
-2 in the paper's model). The layers after it, and the norm of the pooled CLS token, are not built:
they would cost memory and time, and would be parameters that never get a gradient. Does not resize,
normalise or pool.

Shape suffixes: G grids, C channels, Y and X pixel rows and columns, P patches, V vision width.
"""

from __future__ import annotations

from copy import deepcopy

from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from longva_ray.vision.tower_config import num_layers_used


class ClipTower(nn.Module):
    """A `CLIPVisionModel` cut off after the selected layer.

    Its configuration keeps the number of layers before the cut, as `layers_of_whole_tower`: saved
    alone, it can be told from a smaller tower that is whole.
    """

    def __init__(self, config: CLIPVisionConfig, *, feature_layer: int) -> None:
        super().__init__()
        cut = deepcopy(config)
        cut.num_hidden_layers = num_layers_used(config, feature_layer)
        cut.layers_of_whole_tower = config.num_hidden_layers
        # The tower keeps its own attention: what a caller picks for the language model (a causal
        # ring, say) would be wrong here. SDPA without a mask is a flash kernel on GPU.
        cut._attn_implementation = "sdpa"
        self.clip = CLIPVisionModel(cut)
        # The norm of the pooled CLS token, which is not used.
        self.clip.register_module("post_layernorm", nn.Identity())

    def forward(self, pixels_GCYX: Tensor) -> Tensor:
        return self.clip(pixel_values=pixels_GCYX).last_hidden_state[:, 1:]
