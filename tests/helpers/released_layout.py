"""A random checkpoint in exactly the layout of lmms-lab/LongVA-7B, of any size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from byte_tokenizer import byte_tokenizer
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

CANVASES = [(c, r) for c in range(1, 50) for r in range(1, 50) if 1 < c * r <= 49]
"""Columns and rows of every canvas of the published list."""


def flat_config(**changes: Any) -> dict[str, Any]:
    """Keys of the published config.json, at a tiny size; its model_type says "qwen2"."""
    return {
        "_name_or_path": "LongVa/Qwen2-7B-Instruct-extend-step_1000",
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "qwen2",
        "attention_dropout": 0.0,
        "bos_token_id": 256,
        "eos_token_id": 258,
        "hidden_act": "silu",
        "hidden_size": 32,
        "image_aspect_ratio": "anyres",
        "image_crop_resolution": None,
        "image_grid_pinpoints": [[28 * c, 28 * r] for c, r in CANVASES],
        "image_split_resolution": None,
        "initializer_range": 0.2,
        "intermediate_size": 64,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "mm_hidden_size": 16,
        "mm_patch_merge_type": "unires",
        "mm_projector_lr": None,
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None,
        "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "replaced below",
        "mm_vision_tower_lr": 2e-06,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pos_skipping_range": 4096,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"factor": 4.0, "type": "linear"},
        "rope_theta": 1e9,
        "sliding_window": 131072,
        "tie_word_embeddings": False,
        "tokenizer_model_max_length": 32768,
        "tokenizer_padding_side": "right",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.40.0.dev0",
        "use_cache": True,
        "use_mm_proj": True,
        "use_sliding_window": False,
        "vision_tower_pretrained": None,
        "vocab_size": 259,
    } | changes


class Released:
    """A released checkpoint on disk and the parts it was written from."""

    def __init__(self, root: Path, clip_config: CLIPVisionConfig) -> None:
        torch.manual_seed(11)
        self.path = root / "llava_qwen_7b"  # a name that the original loader would dispatch on
        self.clip = CLIPVisionModel(clip_config).eval()
        rope = {"rope_type": "default", "rope_theta": 1e9}
        shape = {k: v for k, v in flat_config().items() if k in Qwen2Config().to_dict()}
        self.lm = Qwen2ForCausalLM(Qwen2Config(**shape | {"rope_parameters": rope})).eval()
        self.first, self.second = torch.nn.Linear(16, 32), torch.nn.Linear(32, 32)
        self.clip.save_pretrained(root / "clip")
        grid = clip_config.image_size
        self.config = flat_config(
            mm_vision_tower=str(root / "clip"),
            mm_hidden_size=clip_config.hidden_size,
            image_grid_pinpoints=[[grid * c, grid * r] for c, r in CANVASES],
        )
        self.num_patches = (grid // clip_config.patch_size) ** 2

    def tensors(self, *, tower: bool) -> dict[str, Tensor]:
        named = dict(self.lm.state_dict())
        for number, layer in ((0, self.first), (2, self.second)):
            named |= {f"model.mm_projector.{number}.{k}": v for k, v in layer.state_dict().items()}
        if tower:
            prefix = "model.vision_tower.vision_tower.vision_model."
            named |= {prefix + k: v for k, v in self.clip.state_dict().items()}
            named[prefix + "embeddings.position_ids"] = torch.arange(self.num_patches + 1)[None]
        return {name: value.detach().contiguous() for name, value in named.items()}

    def write(self, *, tower: bool, shards: int) -> None:
        self.path.mkdir(exist_ok=True)
        (self.path / "config.json").write_text(json.dumps(self.config))
        generation = {
            "do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8,
            "repetition_penalty": 1.05, "eos_token_id": [258, 256], "pad_token_id": 256,
        }  # fmt: skip
        (self.path / "generation_config.json").write_text(json.dumps(generation))
        chatml_tokenizer().save_pretrained(self.path)
        names = sorted(self.tensors(tower=tower))
        weight_map = {name: f"model-{i % shards}.safetensors" for i, name in enumerate(names)}
        for file in set(weight_map.values()):
            chosen = {n: t for n, t in self.tensors(tower=tower).items() if weight_map[n] == file}
            save_file(chosen, self.path / file, metadata={"format": "pt"})
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (self.path / "model.safetensors.index.json").write_text(json.dumps(index))

    def tokens(self, frames_FYXC: NDArray[np.uint8]) -> Tensor:
        """Visual tokens as the released code makes them: CLIP, MLP, then a mean of 2x2 patches."""
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
        std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
        pixels = ((torch.from_numpy(frames_FYXC).float() / 255 - mean) / std).permute(0, 3, 1, 2)
        with torch.no_grad():
            states = self.clip(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
            projected = self.second(torch.nn.functional.gelu(self.first(states)))
        return projected.mean(1)  # a tiny grid is one pooling window


def chatml_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer without <image> and <video>, as the released one."""
    whole = json.loads(byte_tokenizer().backend_tokenizer.to_str())
    whole["added_tokens"] = whole["added_tokens"][:3]
    from tokenizers import Tokenizer

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(whole)),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
