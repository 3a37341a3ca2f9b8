"""Measured peak memory of a step of preference tuning: the check on `planner.vision`.

    measured_pair(setup, config, tokens)   ->   bytes

The stage's own module computes a pair about a video: two documents of half the tokens each, which
begin with all frames that fit. Counted as in `memory_measure`; one process, so a ring of one.
"""

from typing import Any

import numpy as np
import torch
from memory_measure import LiveBytes

from longva_ray.lm.longva import LongVAForConditionalGeneration
from longva_ray.lm.longva_config import LongVAConfig
from longva_ray.lm.tiled_mlp import tile_mlps
from longva_ray.planner.setup import Setup
from longva_ray.ring.attention import Ring
from longva_ray.ring.hf import NAME, register
from longva_ray.ring.layout import IGNORE_INDEX, ZigzagLayout, next_token_labels
from longva_ray.settings.training import PreferConfig
from longva_ray.train.activations import checkpoint_activations
from longva_ray.train.stage import DTYPES
from longva_ray.train.stages.preference_loss import PairFacts, PreferenceLoss
from longva_ray.train.stages.visual_share import VisualShare


def measured_pair(setup: Setup, config: LongVAConfig, tokens: int, *, answer: int = 16) -> int:
    """Peak bytes of a step on the CPU beyond weights, gradients, and the pair itself.

    Args:
        answer: tokens at the end of each document.
    """
    torch.manual_seed(0)
    register()
    train = setup.train
    assert isinstance(train, PreferConfig)
    dtype = DTYPES[train.dtype]
    model: Any = LongVAForConditionalGeneration(config)
    model.to(dtype)
    model.language_model.set_attn_implementation(NAME)
    model.frame_encoder.requires_grad_(train.train == "all")
    model.frame_encoder.tower.requires_grad_(train.trains_tower)
    model.train()
    if train.checkpoint_activations:
        checkpoint_activations(model.language_model, keep_ring=setup.keep_ring)
    if train.tile_mlps:
        tile_mlps(model.language_model, tile_tokens=setup.tile_tokens, min_tokens=setup.tile_from)
    reference = None
    if train.reference == "live":
        reference = type(model.language_model)(model.language_model.config).to(dtype)
        reference.set_attn_implementation(NAME)
        reference.requires_grad_(False)
    recompute = train.trains_tower and train.checkpoint_activations
    module = PreferenceLoss(model, None, train, reference=reference, recompute=recompute)
    inputs = _pair(config, tokens, answer, train)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    there = [*module.buffers(), *module.parameters()]
    there += [p.grad for p in module.parameters() if p.grad is not None]
    with LiveBytes() as memory:
        memory.ignore(there)
        module(**inputs, denominator=1).backward()
    return memory.peak


def _pair(config: LongVAConfig, tokens: int, answer: int, train: PreferConfig) -> dict[str, Any]:
    """What the module is called with: two documents, each of frames and an answer."""
    length, per_grid = tokens // 2, config.grids.tokens_per_grid
    grids = (length - answer) // per_grid
    document_T = torch.zeros(length, dtype=torch.int64)
    document_T[: grids * per_grid] = config.video_token_id
    ids_BT = document_T.repeat(2)[None]
    layout = ZigzagLayout(document_lengths=(length, length), world_size=1)
    place_T = torch.arange(2 * length)
    is_answer_BT = (place_T % length >= length - answer)[None]
    number_S = torch.arange(grids * per_grid).repeat(2)
    size, width = config.grid_size, config.text.hidden_size
    share = VisualShare.of(
        np.zeros((grids, size, size, 3), np.uint8),
        torch.stack([number_S // per_grid, number_S % per_grid], dim=-1),
        max(1, -(-grids // train.grids_per_forward)),
        torch.device("cpu"),
    )
    stored_SD = torch.zeros(len(number_S), width, dtype=DTYPES[train.dtype])
    reads_store = train.train == "language" or train.reference == "live"
    reference_A = torch.zeros(2, dtype=torch.float64) if train.reference == "stored" else None
    return {
        "input_ids_BL": ids_BT,
        "labels_BL": next_token_labels(ids_BT.where(is_answer_BT, IGNORE_INDEX), layout),
        "answer_BL": (place_T // length)[None],
        "stored_SD": stored_SD if reads_store else None,
        "visual": share if train.train == "all" else None,
        "pair": PairFacts(
            reference_A=reference_A, tokens_A=torch.tensor([answer, answer]), counts=True
        ),
        "ring": Ring(layout=layout),
    }
