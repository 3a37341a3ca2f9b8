"""Memory that comes and goes within a step, for a number of tokens.

Of these moments only the largest counts: the loss, and in the backward pass of a layer its MLP, its
norms, its attention; last the vision tower, where it learns (`planner.vision`). The numbers of
tensors alive at each moment are those of transformers' Qwen2 and Llama layers with the attention of
`ring` and the loss of `lm.loss`. They were read off measured steps, and tests compare them with
such steps.

Letters in formulas: L tokens on a GPU, D width, I intermediate width, A query width (heads x head
dimension), K key width, N query heads, V words, b bytes of an activation, n layers, S tokens of a
tile.
"""

import math

from longva_ray.lm.tiled_loss import TILE_BYTES
from longva_ray.lm.tiled_mlp import num_tiles
from longva_ray.planner.setup import Setup
from longva_ray.planner.term import Term
from longva_ray.planner.vision import pair_loss_term, vision_terms

KERNEL_SUMS = "sums inside the attention kernel"
"""The one term that no count of live tensors sees."""


def activation_terms(setup: Setup, tokens: int) -> list[Term]:
    """The terms that come and go within a step: all but weights, gradients and optimizer."""
    kept = _kept(setup, tokens)
    held = sum(term.gpu for term in kept if term.moment == "held")
    return [*kept, *vision_terms(setup, tokens, held), *_moments(setup, tokens)]


def _kept(setup: Setup, tokens: int) -> list[Term]:
    """What the forward pass leaves for the backward pass."""
    m, b, train = setup.model, setup.itemsize, setup.train
    layer_input = tokens * m.width * b
    ring_out, ring_lse = tokens * m.query_width * b, 4 * tokens * m.heads
    ring_output = ring_out + ring_lse
    rotary = Term(name="rotary embedding", formula="2 L H b", gpu=2 * tokens * m.head_dim * b)
    if not train.checkpoint_activations:
        saved = (4 * b + (0 if setup.fused else 8)) * m.width + 4 * b * m.intermediate
        saved += 2 * b * (m.query_width + m.key_width) + 4 * m.heads
        formula = "L (4 b D (+ 8 D) + 4 b I + 2 b (A + K) + 4 N) a layer"
        layer, at_hand = tokens * saved, layer_input + ring_output
        return [
            Term(
                name="activations of layers",
                formula=formula,
                gpu=(m.layers - 1) * layer + at_hand,
            ),
            # The other moments have their own count of the layer that they work on.
            Term(
                name="activations of one layer",
                formula=formula,
                moment="loss",
                gpu=layer - at_hand,
            ),
            rotary,
        ]
    away = train.offload_activations
    # What was moved away comes back for one layer at a time.
    here, there = (1, m.layers) if away else (m.layers, 0)
    kept_here, kept_there = (here, there) if setup.keep_ring else (1, 0)
    return [
        Term(
            name="checkpointed layer inputs",
            formula="n L D b",
            gpu=here * layer_input,
            host=there * _pinned(layer_input),
        ),
        Term(
            name="kept ring outputs",
            formula="n L (A b + 4 N)",
            gpu=kept_here * ring_output,
            host=kept_there * (_pinned(ring_out) + _pinned(ring_lse)),
        ),
        rotary,
    ]


def _pinned(num_bytes: float) -> int:
    """What a tensor takes in pinned host memory: torch rounds it up to a power of two."""
    return 1 << max(0, math.ceil(num_bytes) - 1).bit_length()


def _moments(setup: Setup, tokens: int) -> list[Term]:
    """The working sets of which only the largest counts."""
    m, b = setup.model, setup.itemsize
    d, a, k = (tokens * width for width in (m.width, m.query_width, m.key_width))
    tiles = 1
    if setup.train.tile_mlps:
        tiles = num_tiles(tokens, tile_tokens=setup.tile_tokens, min_tokens=setup.tile_from)
    tile = -(-tokens // tiles)
    # Autograd adds up the tiles' shares of the weights' gradients before it passes them on.
    tiled = tiles > 1
    shares = tiled * 3 * m.width * m.intermediate * b
    saved = b * (a + 2 * k)
    # Norms that are not fused keep float32 copies, instead of an output that the fused ones keep.
    copies = 0 if setup.fused else (12 - b) * d
    return [
        Term(
            name="MLP of a layer",
            formula="6 S I b; 4 L D b; L (A + 2 K) b; in tiles + L D b + 3 D I b",
            moment="mlp",
            gpu=6 * tile * m.intermediate * b + (4 + tiled) * b * d + copies + saved + shares,
        ),
        Term(
            name="norms of a layer",
            formula="6 L D b, 5 after tiles; L (A + 2 K) b"
            if setup.fused
            else "(36 - b) L D; L (A + 2 K) b",
            moment="norms",
            gpu=((6 - tiled) * b if setup.fused else 36 - b) * d + saved,
        ),
        Term(
            name="attention of a layer",
            formula="2 L D b; 3 L A b + 4 L N; 4 L K b",
            moment="attention",
            gpu=2 * b * d + copies + 3 * b * a + 4 * m.heads * tokens + 4 * b * k,
        ),
        *_in_kernels(setup, a, k),
        _loss(setup, tokens),
    ]


def _in_kernels(setup: Setup, a: int, k: int) -> list[Term]:
    """What attention takes that no saved tensor shows.

    Ring: dq in float32; dk and dv in float32, twice; keys and values twice in b. All-gather: keys
    and values of the ring in b, their gradients in float32, both twice (computed). One process
    sums up nothing. Its kernel does: FlashAttention 2 adds up dq in float32. cuDNN is taken to do
    the same; neither was measured.
    """
    b, ring = setup.itemsize, setup.ring_size
    found = [
        Term(name=KERNEL_SUMS, formula="4 L A", moment="attention", gpu=4 * a),
    ]
    if ring > 1:
        gathered = setup.train.ring_schedule == "all_gather"
        on_the_way = 2 * 2 * ring * k * (b + 4) if gathered else 4 * a + 16 * k + 4 * b * k
        found.append(
            Term(
                name="sums over the ring, keys on the way",
                formula="4 ring K L (b + 4)" if gathered else "4 L A; L K (16 + 4 b)",
                moment="attention",
                gpu=on_the_way,
            )
        )
    return found


def _loss(setup: Setup, tokens: int) -> Term:
    if setup.vision is not None:
        return pair_loss_term(setup, tokens)
    m, b = setup.model, setup.itemsize
    final = (3 * b if setup.fused else 4 + 3 * b) * tokens * m.width
    if not setup.tiled_loss:
        scores = 16 * tokens * m.words
        return Term(
            name="loss, all scores",
            formula="16 L V; 3 L D b (+ 4 L D)",
            moment="loss",
            gpu=scores + final,
        )
    tile = min(tokens, max(1, TILE_BYTES // (4 * m.words)))
    low = b if b < 4 else 0  # copies that only low precision needs
    fixed = (4 + low) * m.words * (m.width + tile)
    return Term(
        name="loss, in tiles",
        formula="(4 + b) V (D + S); 3 L D b (+ 4 L D)",
        moment="loss",
        gpu=fixed + final,
    )
