"""LongVA known to transformers' Auto classes: config, model, processor."""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from longva_ray.lm.longva import LongVAForConditionalGeneration
from longva_ray.lm.longva_config import LongVAConfig
from longva_ray.lm.processor import LongVAProcessor


def register_longva() -> None:
    """Make the Auto classes know LongVA; may be called again.

    Importing this package registers nothing. Every loader here calls this; call it yourself before
    using `AutoModelForImageTextToText.from_pretrained` on a checkpoint of ours.
    """
    AutoConfig.register(LongVAConfig.model_type, LongVAConfig, exist_ok=True)
    AutoModelForImageTextToText.register(
        LongVAConfig, LongVAForConditionalGeneration, exist_ok=True
    )
    AutoProcessor.register(LongVAConfig, LongVAProcessor, exist_ok=True)
