"""The RoPE base: given to a configuration, and found again in the model that was made from it.

A base lost between configuration and buffers (an old key that is no longer read, a buffer made in
bfloat16) raises no error by itself and costs all of the long context.

Shape suffixes: H head dimension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def stretch(
    text_config: PreTrainedConfig, *, rope_theta: float | None, max_positions: int | None = None
) -> None:
    """Give a language model's configuration another RoPE base and longest sequence (in place);
    None leaves what is there."""
    if rope_theta is not None:
        text_config.rope_parameters = {**text_config.rope_parameters, "rope_theta": rope_theta}
    if max_positions is not None:
        text_config.max_position_embeddings = max_positions


def assert_rope(language_model: PreTrainedModel, text_config: PreTrainedConfig) -> None:
    """Assert `inv_freq_i = theta^(-2i / H)` for the model's buffers, in float32.

    H is the rotated part of a head (https://arxiv.org/abs/2104.09864, section 3.2.2). Scaled kinds
    of RoPE (yarn, llama3, ...) are transformers' own and not checked.
    """
    if text_config.rope_parameters["rope_type"] != "default":
        return
    theta = text_config.rope_parameters["rope_theta"]
    buffers = [
        (name, buffer)
        for name, buffer in language_model.named_buffers()
        if name.split(".")[-1] == "inv_freq"
    ]
    assert buffers, f"{type(language_model).__name__} has no inv_freq to check"
    for name, inv_freq in buffers:
        exponents = torch.arange(len(inv_freq), dtype=torch.float64) / len(inv_freq)
        wanted = (theta**-exponents).to(torch.float32)
        assert inv_freq.dtype == torch.float32, f"{name} is {inv_freq.dtype}, want float32"
        assert torch.allclose(inv_freq.cpu(), wanted, rtol=1e-5, atol=0), (
            f"{name} does not belong to rope_theta={theta}: got {inv_freq[:4].tolist()}..., "
            f"want {wanted[:4].tolist()}..."
        )
