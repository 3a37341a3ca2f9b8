"""LongVA known to transformers' Auto classes: config, model, processor."""

from transformers import AutoConfig

from longva_ray.lm.longva_config import LongVAConfig


def register_config() -> None:
    """Make `AutoConfig`, and so `AutoTokenizer`, know LongVA; may be called again.

    Imports no model: a command that only tokenises need not wait seconds for one.
    """
    AutoConfig.register(LongVAConfig.model_type, LongVAConfig, exist_ok=True)


def register_longva() -> None:
    """Make all Auto classes know LongVA; may be called again.

    Importing this package registers nothing. Call it before using
    `AutoModelForImageTextToText.from_pretrained` on a checkpoint of ours; our own loaders need it
    not.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from longva_ray.lm.longva import LongVAForConditionalGeneration
    from longva_ray.lm.processor import LongVAProcessor

    register_config()
    AutoModelForImageTextToText.register(
        LongVAConfig, LongVAForConditionalGeneration, exist_ok=True
    )
    AutoProcessor.register(LongVAConfig, LongVAProcessor, exist_ok=True)
