"""LongVA in transformers' conventions: frame encoder, causal language model, splice.

    input_ids_BT + pixels (or visual tokens encoded earlier) -> logits over the next token

`from_pretrained`, `save_pretrained`, `generate` (cache, beams, sampling, chunked prefill), gradient
checkpointing and the Auto classes (`lm.auto_classes`) come from transformers. The language model is
any Qwen2- or Llama-shaped causal model, untouched: a custom attention reaches it by name
(`attn_implementation`), while the vision tower keeps its own. Does not build prompts (`prompt`,
`processor`).

Pixels are uint8 grids; visual tokens that were encoded earlier go in as
`mm_encoder_outputs={"video": encoded(tokens)}`, transformers' own name for that.

Shape suffixes: B batch, T tokens of the whole sequence, G grids, F frames, Y/X/C pixel axes, Q
visual tokens of a grid, S visual tokens of images, 2 where one comes from, D language-model width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast

from longva_ray.lm.longva_config import LongVAConfig
from longva_ray.lm.splice import embed_text, fill, placeholder_mask
from longva_ray.vision.anyres import Newline
from longva_ray.vision.frame_encoder import FrameEncoder


def build_frame_encoder(config: LongVAConfig) -> FrameEncoder:
    """A frame encoder of the configuration's shape, with random weights."""
    return FrameEncoder(
        config.vision,
        width=config.text.hidden_size,
        feature_layer=config.vision_feature_layer,
        pool_stride=config.pool_stride,
        hidden_act=config.projector_hidden_act,
        encoding=config.encoding,
        num_words=config.text.vocab_size if config.projector == "align" else None,
    )


def encoded(tokens: Tensor | Sequence[Tensor]) -> BaseModelOutputWithPooling:
    """Visual tokens encoded earlier, the values of `mm_encoder_outputs`.

    Args:
        tokens: tokens_GQD of all items of that kind in order, or one [Q, D] or [G, Q, D] for each
            item.
    """
    items = [tokens] if isinstance(tokens, Tensor) else tokens
    # A list with a tensor for each item is what transformers' own models put here.
    flat: Any = [item.flatten(0, -2) for item in items]
    return BaseModelOutputWithPooling(pooler_output=flat)


class LongVAForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Frame encoder + language model."""

    config: LongVAConfig
    config_class = LongVAConfig
    base_model_prefix = ""
    input_modalities = ("image", "video", "text")  # type: ignore[assignment]
    supports_gradient_checkpointing = True
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = False

    def __init__(self, config: LongVAConfig) -> None:
        super().__init__(config)
        self.frame_encoder = build_frame_encoder(config)
        self.language_model: Any = AutoModelForCausalLM.from_config(config.text)
        self.post_init()
        forbid_placeholders(self.generation_config, config)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Newline):
            init.normal_(module.weight, std=module.std)

    def give_words_to_projector(self) -> None:
        """Copy the language model's embeddings to where projector "align" keeps them."""
        words = self.frame_encoder.projector.words
        if words is not None:
            words.embeddings_WD.copy_(self.language_model.get_input_embeddings().weight.detach())

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def get_decoder(self) -> nn.Module:
        return self.language_model.get_decoder()

    def set_attn_implementation(
        self, attn_implementation: str | dict[str, str], allow_all_kernels: bool = False
    ) -> None:
        """Change the language model's attention; the tower keeps its own (see `clip_tower`)."""
        if isinstance(attn_implementation, dict):
            attn_implementation = attn_implementation["text_config"]
        self.language_model.set_attn_implementation(attn_implementation, allow_all_kernels)

    def generate(
        self,
        *args: Any,
        mm_encoder_outputs: Mapping[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> Any:
        """transformers' `generate`, without its habit of changing the visual tokens it is given.

        Beam search repeats them in place there, so that a second question about the same video
        would fail.
        """
        if mm_encoder_outputs is not None:
            own = {kind: encoded(_items(output)) for kind, output in mm_encoder_outputs.items()}
            kwargs["mm_encoder_outputs"] = own
        return super().generate(*args, **kwargs)  # type: ignore[misc]

    def get_image_features(
        self, pixel_values: Tensor, image_sources: Tensor | None = None, **_: Any
    ) -> BaseModelOutputWithPooling:
        """Visual tokens of image grids: grids_GYXC uint8, source_S2 -> `pooler_output`, [S, D]."""
        return encoded(self.frame_encoder.encode_images(pixel_values, image_sources))

    def get_video_features(
        self, pixel_values_videos: Tensor, **_: Any
    ) -> BaseModelOutputWithPooling:
        """Visual tokens of video frames, each a grid: frames_FYXC uint8, likewise."""
        return encoded(self.frame_encoder(pixel_values_videos))

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        image_sources: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: Mapping[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, and the loss where labels are given.

        Args:
            input_ids: [B, T], every placeholder repeated for its visual tokens (`prompt`,
                `processor`).
            pixel_values: grids_GYXC uint8 of all images of the batch, in the order of their
                placeholders.
            pixel_values_videos: frames_FYXC uint8 of all videos of the batch, likewise.
            image_sources: source_S2 of all images of the batch (`processor`); UniRes does without.
            inputs_embeds: [B, T, D] instead of `input_ids`, visual tokens already in place
                (`splice.embed_prompt`).
            mm_encoder_outputs: visual tokens instead of pixels, see `encoded`.
            attention_mask, position_ids, past_key_values, labels, logits_to_keep, kwargs: as the
                language model has them.

        Raises:
            ValueError: placeholders and visual tokens do not match, or the same thing is given
                twice.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("want exactly one of input_ids and inputs_embeds")
        outputs = dict(mm_encoder_outputs or {})
        if pixel_values is not None:
            self._add(outputs, "image", self.get_image_features(pixel_values, image_sources))
        if pixel_values_videos is not None:
            self._add(outputs, "video", self.get_video_features(pixel_values_videos))
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self._embed(input_ids, outputs)
        elif outputs:
            raise ValueError(
                "visual tokens need input_ids: inputs_embeds show no placeholder to put them at; "
                "splice them in with longva_ray.lm.splice.embed_prompt instead"
            )
        return self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    @staticmethod
    def _add(
        outputs: dict[str, BaseModelOutputWithPooling],
        kind: str,
        output: BaseModelOutputWithPooling,
    ) -> None:
        if outputs.get(kind) is not None:
            raise ValueError(f"got both pixels and encoded tokens for the {kind}s, want one")
        outputs[kind] = output

    def _embed(
        self, input_ids_BT: Tensor, outputs: Mapping[str, BaseModelOutputWithPooling]
    ) -> Tensor:
        """Text embeddings with the tokens of images and of videos at their placeholders."""
        mask_BT = placeholder_mask(input_ids_BT, self.config.placeholder_ids)
        embeds_BTD = embed_text(input_ids_BT, self.get_input_embeddings(), mask_BT)
        ids = {"image": self.config.image_token_id, "video": self.config.video_token_id}
        for kind, token_id in ids.items():
            items = _items(outputs[kind]) if kind in outputs else []
            embeds_BTD = fill(embeds_BTD, input_ids_BT == token_id, items)
        return embeds_BTD


def _items(output: BaseModelOutputWithPooling) -> list[Tensor]:
    """Tokens of each item; transformers hands them on as one tensor or as a list."""
    tokens: Any = output.pooler_output
    return [tokens] if isinstance(tokens, Tensor) else list(tokens)


def forbid_placeholders(generation_config: GenerationConfig, config: LongVAConfig) -> None:
    """Keep generation from emitting a placeholder where the vocabulary has one (in place)."""
    vocab_size = config.text.vocab_size
    ids = {token_id for token_id in config.placeholder_ids if token_id < vocab_size}
    if ids:
        others = generation_config.suppress_tokens or []
        generation_config.suppress_tokens = sorted(ids.union(others))
