"""What the stages that train a LongVA checkpoint share: how it is loaded, and written.

checkpoint -> model (language model on the ring, frame encoder) and processor -> checkpoint
"""

import abc
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from longva_ray.lm.load import load_longva
from longva_ray.lm.longva import LongVAForConditionalGeneration
from longva_ray.lm.processor import LongVAProcessor
from longva_ray.ring.hf import NAME
from longva_ray.train.stage import DTYPES
from longva_ray.train.stages.language import ConfigT, LanguageStage, ShardsT


class LongVAStage(LanguageStage[ConfigT, LongVAForConditionalGeneration, ShardsT]):
    """A stage whose model is LongVA, from a checkpoint and to one."""

    def __init__(self, config: ConfigT, *, base: str, shards: ShardsT) -> None:
        super().__init__(config, base=base, shards=shards)
        self._processor: LongVAProcessor | None = None

    @abc.abstractmethod
    def choose_trained(self, model: LongVAForConditionalGeneration) -> None:
        """Set which weights require gradients."""

    def load(self) -> LongVAForConditionalGeneration:
        model, self._processor = load_longva(
            self.base, dtype=DTYPES[self.config.dtype], attn_implementation=NAME
        )
        self.choose_trained(model)
        return model

    def language_model(self) -> PreTrainedModel:
        return self.model().language_model

    def save(self, weights: dict[str, torch.Tensor], folder: Path) -> None:
        assert self._processor is not None, "build comes first"
        super().save(weights, folder)
        self._processor.save_pretrained(folder)

    def provenance(self) -> dict[str, Any]:
        data: Any = self.shards.metadata
        return super().provenance() | {"samples": data.num_samples, "left_out": data.num_left_out}
