"""How fast a machine trains, against what it could do: model FLOPs and a measured matmul peak.

    (architecture, document lengths) -> FLOPs of one forward and backward pass
    MFU = model FLOPs per second / FLOPs per second of one large matrix product

The peak is measured where training ran, because data sheets know neither the actual clock nor what
else runs on the machine. All workers measure at the same time, as they train. Recomputed
activations are not counted, so MFU is what the model needs, not what the machine did.
"""

import time
from collections.abc import Sequence

import torch
from transformers import PreTrainedConfig

PEAK_SECONDS = 0.5


def training_flops(config: PreTrainedConfig, document_lengths: Sequence[int]) -> float:
    """Model FLOPs of forward and backward over these documents, attention causal within each.

    Two for each weight and token forward, twice that backward; attention 2 x 2 x H x N for each
    pair of tokens, of which causality keeps half (https://arxiv.org/abs/2204.02311, appendix B).
    """
    width, heads = config.hidden_size, config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or width // heads
    projections = width * head_size * (2 * heads + 2 * config.num_key_value_heads)
    layer = projections + 3 * width * config.intermediate_size
    weights = config.num_hidden_layers * layer + width * config.vocab_size
    pairs = sum(length**2 for length in document_lengths) / 2
    attention = config.num_hidden_layers * 4 * heads * head_size * pairs
    return 3.0 * (2 * weights * sum(document_lengths) + attention)


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of a large square matrix product in `dtype`, on this device."""
    size = 8192 if device.type == "cuda" else 1024
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    product = left @ right
    _wait(device)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < PEAK_SECONDS:
        torch.matmul(left, right, out=product)
        _wait(device)
        count += 1
    return 2.0 * size**3 * count / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
