"""What preference tuning takes beside a step of the language model: two answers, a reference, and a
vision tower that may learn.

A pair is one row of two documents, which show the same video. What its tokens take in the language
model is in `planner.activations`; its prompt is computed twice. A live reference adds its weights:
it runs first and without gradients, so that less is alive then than later. The numbers of tensors
are those of transformers' CLIP layers, of `vision.projector` and `lm.preference`. They were read
off measured steps, and tests compare them with such steps.

Letters in formulas: G grids on a GPU, g grids of one forward pass, N patches of a grid with the
class token, P without, Q tokens of a grid, W and J width and intermediate width of the tower, n its
layers, Y pixels of a grid's side; the others as in `planner.activations`.
"""

import dataclasses
from typing import Self

from longva_ray.lm.tiled_loss import TILE_BYTES
from longva_ray.planner.setup import Setup
from longva_ray.planner.term import Term
from longva_ray.settings.training import PreferConfig


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """How many weights a step has, by what becomes of them."""

    learning: int
    frozen: int

    @classmethod
    def of(cls, setup: Setup) -> Self:
        """Those of the language model, and of what preference tuning has beside it."""
        count, train, vision = setup.model.parameters, setup.train, setup.vision
        if not isinstance(train, PreferConfig):
            return cls(learning=count, frozen=0)
        assert vision is not None, "preferences are about what is seen"
        parts = {vision.projector: train.train == "all", vision.tower: train.trains_tower}
        learning = sum(part for part, learns in parts.items() if learns)
        frozen = vision.projector + vision.tower - learning
        reference = count if train.reference == "live" else 0
        return cls(learning=count + learning, frozen=frozen + reference)


def vision_terms(setup: Setup, tokens: int, kept: float) -> list[Term]:
    """What the encoder takes where it runs in the step.

    Args:
        tokens: of the pair on each GPU.
        kept: bytes of what the language model keeps, which are gone before the tower's turn.
    """
    vision, train = setup.vision, setup.train
    if vision is None or not isinstance(train, PreferConfig) or train.train == "language":
        return []
    b, d = setup.itemsize, setup.model.width
    # Both documents show the same video: on one GPU every grid stands twice, in a ring some do.
    grids = min(tokens, setup.ring_size * tokens / 2) / vision.tokens
    shown = Term(name="visual tokens", formula="L D b", gpu=tokens * d * b)
    projector = vision.patches * (vision.width + 3 * d) * b + vision.tokens * d * b
    if not train.trains_tower:
        formula = "G (P (W + 3 D) + Q D) b"
        return [shown, Term(name="projector", formula=formula, gpu=grids * projector)]
    rows = (vision.patches + 1) * b
    tower = vision.layers * rows * (8 * vision.width + 3 * vision.intermediate)
    tower += rows * vision.width + 12 * vision.grid_size**2
    formula = "G or g (n N (8 W + 3 J) b + N W b + 12 Y Y; P (W + 3 D) b + Q D b)"
    if not train.checkpoint_activations:
        return [shown, Term(name="tower", formula=formula, gpu=grids * (tower + projector))]
    at_once = min(grids, train.grids_per_forward)
    # Autograd adds up the gradients of all forward passes before it passes them on; those of the
    # layer at work are there once more.
    weights = vision.tower + vision.projector + vision.tower // vision.layers
    sums = weights * b if grids > at_once else 0
    gpu = at_once * (tower + projector) + grids * vision.tokens * d * b + sums
    return [
        shown,
        Term(
            name="tower, a forward pass of it",
            formula=f"{formula}; its gradients once more",
            moment="tower",
            gpu=max(0.0, gpu - kept),
        ),
    ]


def pair_loss_term(setup: Setup, tokens: int) -> Term:
    """Log-probabilities of two answers, each with its own gradient of the output layer; answers
    may be as long as their documents."""
    m, b = setup.model, setup.itemsize
    tile = min(-(-tokens // 2), max(1, TILE_BYTES // (4 * m.words)))
    low = b if b < 4 else 0  # copies that only low precision needs
    forward = m.words * ((8 + low) * m.width + (4 + low) * tile)
    backward = m.words * 12 * m.width if not low else 0
    return Term(
        name="loss of two answers",
        formula="(8 + b) V D + (4 + b) V S; 4 L D b (+ 4 L D)",
        moment="loss",
        gpu=max(forward, backward) + (4 * b + (0 if setup.fused else 4)) * tokens * m.width,
    )
