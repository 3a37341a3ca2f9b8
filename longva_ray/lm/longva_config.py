"""The configuration of a LongVA model: a CLIP tower, a language model, and how grids become tokens.

The defaults are those of LongVA-7B, the paper's model. The class follows transformers' conventions,
so a checkpoint's config.json is this and nothing else.
"""

# No `from __future__ import annotations`: @strict checks a config's values by real types.

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, CLIPVisionConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from longva_ray.video.fitting import Fitting
from longva_ray.vision.encoding import Encoding, GridSettings
from longva_ray.vision.projector import ProjectorKind
from longva_ray.vision.tower_config import grid_and_patch_side
from longva_ray.vision.unires import MAX_GRIDS, GridRule

ARCHITECTURE = "LongVAForConditionalGeneration"
"""Name of the class in `lm.longva`, as a checkpoint's config.json has it."""


# openai/clip-vit-large-patch14-336, the paper's vision encoder (section 3.2)
CLIP_L_336: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 336,
    "projection_dim": 768,
}


# Qwen2-7B-Instruct with the RoPE base of the paper's text extension (section 3.1)
QWEN2_7B_224K: dict[str, Any] = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 224000,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e9},
}


@strict
class LongVAConfig(PreTrainedConfig):
    """Configuration of `LongVAForConditionalGeneration`; the defaults are LongVA-7B's.

    Attributes:
        vision_config: the CLIP tower; its `image_size` is the grid size.
        text_config: the language model, Qwen2- or Llama-shaped.
        projector: "mlp", the paper's, or "align" (`longva_ray.vision.projector`).
        projector_hidden_act: activation of the 2-layer MLP (released code: mlp2x_gelu).
        vision_feature_layer: which hidden state of the tower is used (released code: -2).
        pool_stride: average pooling after the MLP (paper, section 3.2: 2x2).
        encoding: which tokens stand for an image, "unires" or, the paper's ablation, "anyres"
            (`longva_ray.vision.anyres`); a frame has the same with both.
        max_grids: most grids an image is cut into (paper, section 3.2: 49; 4 for AnyRes).
        grid_rule: how many grids an image gets, "paper" (section 3.2) or "released"
            (`longva_ray.vision.unires`).
        frame_fitting: how frames and images of another shape fit a grid, "letterbox" (as the
            released code's images), "letterbox_mean" (as its V-NIAH frames), "center_crop" or
            "squash" (`longva_ray.video.fitting`).
        video_fitting: the same for frames of videos alone; None, as `frame_fitting` says (released
            code: "center_crop").
        image_token_id, video_token_id: the placeholders, by default the first ids that Qwen2's
            tokenizer leaves free.
        max_prompt_tokens: longest prompt the checkpoint admits; None, no limit, unless a released
            checkpoint has a `tokenizer_model_max_length`.
    """

    model_type = "longva"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "vision_config": SubConfigSpec(config_class=CLIPVisionConfig, init_kwargs=CLIP_L_336),
        "text_config": SubConfigSpec(
            config_class=AutoConfig, model_type="qwen2", init_kwargs=QWEN2_7B_224K
        ),
    }

    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    projector: ProjectorKind = "mlp"
    projector_hidden_act: str = "gelu"
    vision_feature_layer: int = -2
    pool_stride: int = 2
    encoding: Encoding = "unires"
    max_grids: int = MAX_GRIDS
    grid_rule: GridRule = "paper"
    frame_fitting: Fitting = "letterbox"
    video_fitting: Fitting | None = None
    image_token_id: int = 151646
    video_token_id: int = 151647
    max_prompt_tokens: int | None = None

    @property
    def placeholder_ids(self) -> tuple[int, int]:
        """Ids of `<image>` and `<video>`."""
        return self.image_token_id, self.video_token_id

    @property
    def vision(self) -> CLIPVisionConfig:
        """The vision config with its type."""
        assert isinstance(self.vision_config, CLIPVisionConfig)
        return self.vision_config

    @property
    def text(self) -> PreTrainedConfig:
        """The text config with its type."""
        assert isinstance(self.text_config, PreTrainedConfig)
        return self.text_config

    @property
    def fitting_of_videos(self) -> Fitting:
        """How frames of videos fit a grid, unless encoding says otherwise."""
        return self.video_fitting or self.frame_fitting

    @property
    def grid_size(self) -> int:
        """Side of a grid in pixels."""
        return grid_and_patch_side(self.vision)[0]

    @property
    def grids(self) -> GridSettings:
        """What images and videos are turned into."""
        grid_size, side = grid_and_patch_side(self.vision)
        return GridSettings(
            grid_size=grid_size,
            tokens_per_grid=(side // self.pool_stride) ** 2,
            max_grids=self.max_grids,
            grid_rule=self.grid_rule,
            frame_fitting=self.frame_fitting,
            encoding=self.encoding,
            pool_stride=self.pool_stride,
        )
