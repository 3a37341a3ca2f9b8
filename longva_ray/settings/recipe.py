"""A recipe: which weights, and the settings of every stage, under one name.

`longva_ray.recipes` has the recipes there are. The settings of a stage are in the file of that
stage, beside this one.
"""

import dataclasses

from longva_ray.settings.answering import ServeConfig
from longva_ray.settings.data import ImageDataConfig, PreferenceDataConfig, TextDataConfig
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.settings.needles import NiahConfig, VniahConfig
from longva_ray.settings.questions import QuestionsConfig
from longva_ray.settings.training import AlignConfig, ExtendConfig, PreferConfig


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A complete named set-up: which weights, and every stage's settings."""

    name: str
    description: str
    checkpoint: str | None
    """Folder or Hugging Face id of LongVA weights; None, there are none: text only."""
    encode: EncodeConfig = dataclasses.field(default_factory=EncodeConfig)
    serve: ServeConfig = dataclasses.field(default_factory=ServeConfig)
    niah: NiahConfig = dataclasses.field(default_factory=NiahConfig)
    vniah: VniahConfig = dataclasses.field(default_factory=VniahConfig)
    questions: QuestionsConfig = dataclasses.field(default_factory=QuestionsConfig)
    base: str | None = None
    """Folder or Hugging Face id of the language model that text extension starts from; None, the
    one in `checkpoint`."""
    extend: ExtendConfig = dataclasses.field(default_factory=ExtendConfig)
    text: TextDataConfig = dataclasses.field(default_factory=TextDataConfig)
    images: ImageDataConfig = dataclasses.field(default_factory=ImageDataConfig)
    align_projector: AlignConfig = dataclasses.field(
        default_factory=lambda: AlignConfig(
            train="projector", learning_rate=1e-3, steps=3_000, warmup_steps=90
        )
    )
    """Stage 1: 558K captions of about 180 tokens, once, at the scripts' learning rate."""
    align: AlignConfig = dataclasses.field(default_factory=AlignConfig)
    """Stage 2."""
    preferences: PreferenceDataConfig = dataclasses.field(default_factory=PreferenceDataConfig)
    prefer: PreferConfig = dataclasses.field(default_factory=PreferConfig)
