"""MLPs over tiles of tokens, so that their (L, I) intermediates never exist whole.

    tile_mlps(model, tile_tokens=8192, min_tokens=65_536)

An MLP looks at each token alone, so it can take a sequence in tiles. Each tile is checkpointed: the
forward pass keeps its input only, a view of the input that exists anyway, and the backward pass
recomputes one tile at a time. Six intermediates of width I live at the peak of an untiled backward
pass; at 64K tokens of the Qwen2-7B shape they are 14 GiB, tiled an eighth of that.

Works on the unchanged Qwen2 and Llama models of transformers. Weights meet autograd as they do
without tiles: the engine adds up the shares of the tiles and hands each parameter its gradient once
a backward pass, so hooks on gradients (DDP, FSDP, DeepSpeed) fire once.

Under DeepSpeed ZeRO-3 every tile gathers the layer's weights, so all ranks must cut as many tiles
or they wait for each other forever. The number depends on nothing but L, the padded length that
`ring.layout.ZigzagLayout` makes equal on all ranks; do not feed ranks unequal lengths.

Trade-off: the MLP's forward arithmetic once more, and in low precision the gradients of the weights
are rounded once a tile, as with micro-batches. Worth it only where the intermediates are the peak:
long shares, with checkpoints offloaded (`train.activations`), hence off below `min_tokens`. What it
does not do: mixtures of experts. Shapes: B batch, L tokens on this rank, D width, I intermediate
width.

Source: TiledMLP of ALST, section 3.3 of https://arxiv.org/abs/2506.13996, by checkpoints instead of
a new autograd function.
"""

import functools
import logging

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


TILE_TOKENS = 8_192
"""Large enough for full-speed matrix products, small beside the rest of a layer's activations."""


MIN_TOKENS = 65_536
"""Below this the intermediates of a 7B model fit a GPU, and tiling would only cost time."""


def tile_mlps(
    model: PreTrainedModel, *, tile_tokens: int = TILE_TOKENS, min_tokens: int = MIN_TOKENS
) -> None:
    """Make the decoder layers' MLPs run in tiles of at most `tile_tokens` tokens, in place.

    Inputs shorter than `min_tokens` are computed whole. A second call replaces the first one's
    sizes. Same outputs and gradients up to the order of sums. Raises ValueError for sizes below 1
    or a model whose layers have no gated MLP.
    """
    if tile_tokens < 1 or min_tokens < 1:
        raise ValueError(
            f"tile_tokens and min_tokens must be at least 1, got {tile_tokens} and {min_tokens}"
        )
    mlps = _mlps(model)
    for mlp in mlps:
        mlp.forward = functools.partial(_tiled_forward, mlp, tile_tokens, min_tokens)
    logger.info(
        "%d MLPs run in tiles of %d tokens from %d tokens on", len(mlps), tile_tokens, min_tokens
    )


def num_tiles(tokens: int, *, tile_tokens: int, min_tokens: int) -> int:
    """Tiles that `tokens` tokens are cut into; 1 is the whole input."""
    return 1 if tokens < min_tokens else -(-tokens // tile_tokens)


def _tiled_forward(
    mlp: nn.Module, tile_tokens: int, min_tokens: int, x_BLD: torch.Tensor
) -> torch.Tensor:
    """What stands in for `mlp.forward`: (B, L, D) -> (B, L, D)."""
    # The class's own forward, so that tiling twice does not nest.
    whole = functools.partial(type(mlp).forward, mlp)
    tokens = x_BLD.shape[-2]
    tiles = num_tiles(tokens, tile_tokens=tile_tokens, min_tokens=min_tokens)
    if tiles == 1:
        return whole(x_BLD)
    # Equal tiles: a short last one would cost a kernel of another shape.
    pieces = x_BLD.split(-(-tokens // tiles), dim=-2)
    outputs = [
        checkpoint(whole, piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces
    ]
    return torch.cat(outputs, dim=-2)


def _mlps(model: PreTrainedModel) -> list[nn.Module]:
    """The MLP of each decoder layer; the vision tower's are left alone."""
    layers = model.get_decoder().layers
    mlps = [getattr(layer, "mlp", None) for layer in layers]
    if not all(isinstance(getattr(mlp, "gate_proj", None), nn.Linear) for mlp in mlps):
        kinds = sorted({type(mlp).__name__ for mlp in mlps})
        raise ValueError(
            f"want decoder layers with a gated MLP like Qwen2's and Llama's, got {kinds}; train "
            "this model without tiled MLPs"
        )
    return [mlp for mlp in mlps if mlp is not None]
