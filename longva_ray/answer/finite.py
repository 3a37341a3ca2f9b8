"""Numbers of a language model that are not finite are refused, never scored or sampled from.

    values of any shape -> nothing, or FloatingPointError

Weights that are damaged, or too large for their number format (float16 ends at 65504), make logits
infinite or NaN. Every comparison with NaN is false, so an answer would just be called wrong.
"""

import torch
from transformers import PreTrainedModel


def check_finite(values: torch.Tensor, what: str, model: PreTrainedModel) -> None:
    """Raise FloatingPointError unless all values are finite; `what` says what one of them is."""
    finite = values.isfinite()
    if bool(finite.all()):
        return
    wrong = values[~finite]
    number_format = str(model.dtype).removeprefix("torch.")
    raise FloatingPointError(
        f"{what} is {float(wrong[0])}, want a finite number ({len(wrong)} of {values.numel()} are "
        f"not); the weights of {model.name_or_path or 'this model'} are damaged or leave the range "
        f"of {number_format}: load them as float32 or bfloat16, or fetch them again"
    )
