"""What the stages that train a LongVA checkpoint share: how it is loaded, and written.

checkpoint -> model (language model on the ring, frame encoder) and processor -> checkpoint
"""

import abc
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

from longva_ray.lm.load import load_longva
from longva_ray.lm.longva import LongVAForConditionalGeneration
from longva_ray.lm.processor import LongVAProcessor
from longva_ray.ring.hf import NAME
from longva_ray.settings.training import VisionTrainConfig
from longva_ray.train.stage import DTYPES
from longva_ray.train.stages.language import LanguageStage, ShardsT
from longva_ray.vision.tower_config import grid_and_patch_side

VisionConfigT = TypeVar("VisionConfigT", bound=VisionTrainConfig)


class LongVAStage(LanguageStage[VisionConfigT, LongVAForConditionalGeneration, ShardsT]):
    """A stage whose model is LongVA, from a checkpoint and to one."""

    def __init__(self, config: VisionConfigT, *, base: str, shards: ShardsT) -> None:
        super().__init__(config, base=base, shards=shards)
        self._processor: LongVAProcessor | None = None
        self._tower_weights = 0

    @abc.abstractmethod
    def choose_trained(self, model: LongVAForConditionalGeneration) -> None:
        """Set which weights require gradients."""

    def load(self) -> LongVAForConditionalGeneration:
        model, self._processor = load_longva(
            self.base, dtype=DTYPES[self.config.dtype], attn_implementation=NAME
        )
        self.choose_trained(model)
        # Counted now: divided weights have no size.
        self._tower_weights = sum(p.numel() for p in model.frame_encoder.tower.parameters())
        return model

    def language_model(self) -> PreTrainedModel:
        return self.model().language_model

    def parameter_groups(self) -> list[dict[str, Any]]:
        settings, encoder = self.config, self.model().frame_encoder
        rates = {
            self.language_model(): None,
            encoder.projector: settings.projector_learning_rate,
            encoder.tower: settings.vision_learning_rate,
        }
        groups = [
            {
                "params": [p for p in module.parameters() if p.requires_grad],
                "lr_factor": 1.0 if rate is None else rate / settings.learning_rate,
            }
            for module, rate in rates.items()
        ]
        return [group for group in groups if group["params"]]

    def trains_tower(self) -> bool:
        return any(p.requires_grad for p in self.model().frame_encoder.tower.parameters())

    def tower_flops(self, num_grids: int) -> float:
        """Model FLOPs of so many grids: two for each weight and patch forward, two more for each
        gradient that is computed, of activations and of weights."""
        patches = grid_and_patch_side(self.model().config.vision)[1] ** 2 + 1
        passes = 3 if self.trains_tower() else 1
        return passes * 2.0 * self._tower_weights * patches * num_grids

    def save(self, weights: dict[str, torch.Tensor], folder: Path) -> None:
        assert self._processor is not None, "build comes first"
        super().save(weights, folder)
        self._processor.save_pretrained(folder)

    def provenance(self) -> dict[str, Any]:
        data: Any = self.shards.metadata
        return super().provenance() | {"samples": data.num_samples, "left_out": data.num_left_out}
