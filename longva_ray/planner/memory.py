"""How much memory a training step of a language model takes, term by term, before anything runs.

    setup = Setup(model=ModelShape.of(config), gpus=8, train=TrainConfig(...))
    peak(terms(setup, tokens=28_000))   ->   bytes on each GPU, bytes of its share of the host
    longest(setup, Budget(...))         ->   tokens of the longest sequence that fits

A step's peak is what it holds all the time plus the largest of four moments, which never coincide:
the loss, and in the backward pass of a layer its MLP, its norms, its attention. The numbers of
tensors alive at each moment are those of transformers' Qwen2 and Llama layers with the attention of
`ring` and the loss of `lm.loss`. They were read off measured steps, and tests compare them with
such steps. Model states follow the ZeRO paper (https://arxiv.org/abs/1910.02054, section 3.1: 12
bytes of optimizer state a parameter) and the defaults of DeepSpeed's buffers
(https://www.deepspeed.ai/docs/config-json/); they are computed, not measured.

Reads a config, never weights. What it does not do: throughput; the vision tower; memory inside
kernels and allocators, for which `RESERVE_BYTES` and `RESERVE_SHARE` are set aside. Letters in
formulas: P parameters, L tokens on a GPU, D width, I intermediate width, A query width (heads x
head dimension), K key width, N query heads, V words, b bytes of an activation, n layers, S tokens
of a tile.
"""

import dataclasses
import math
from typing import Any, Literal, Self, TypeAlias

from longva_ray.lm.tiled_loss import TILE_BYTES
from longva_ray.lm.tiled_mlp import MIN_TOKENS, TILE_TOKENS, num_tiles
from longva_ray.settings.training import TrainConfig

GIB = 2**30

RESERVE_BYTES = 3 * GIB // 2
"""Set aside on every GPU for the CUDA context and the buffers of NCCL."""


RESERVE_SHARE = 0.05
"""Share of the rest set aside for fragmentation and for what kernels allocate."""


LIVE_PARAMETERS, REDUCE_BUCKET = 1_000_000_000, 500_000_000
"""DeepSpeed's stage3_max_live_parameters and reduce_bucket_size."""


MAX_TOKENS = 2**28
"""Where the search for the longest sequence gives up."""


Moment: TypeAlias = Literal["held", "loss", "mlp", "norms", "attention"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """The numbers of a Qwen2- or Llama-shaped language model that memory depends on."""

    layers: int
    width: int
    intermediate: int
    words: int
    heads: int
    key_heads: int
    head_dim: int
    parameters: int

    @classmethod
    def of(cls, config: Any) -> Self:
        """Of a transformers text config; the model is built without storage and counted."""
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        attention, heads = model.get_decoder().layers[0].self_attn, config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            intermediate=config.intermediate_size,
            words=config.vocab_size,
            heads=heads,
            key_heads=config.num_key_value_heads,
            head_dim=attention.head_dim,
            parameters=sum(p.numel() for p in model.parameters()),
        )

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        return self.key_heads * self.head_dim


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """A model, GPUs, and every switch that memory depends on.

    Raises ValueError when the ring does not divide the GPUs.
    """

    model: ModelShape
    gpus: int
    train: TrainConfig
    """Read for dtype, ZeRO, offload, checkpoints, MLP tiles and the ring's schedule; not for the
    number of workers."""
    ring_size: int
    keep_ring: bool = True
    tiled_loss: bool = True
    tile_tokens: int = TILE_TOKENS
    tile_from: int = MIN_TOKENS
    """Tokens of an MLP tile, and tokens from which on tiles are cut (`lm.tiled_mlp`)."""

    def __post_init__(self) -> None:
        if min(self.gpus, self.ring_size) < 1 or self.gpus % self.ring_size:
            raise ValueError(
                f"the ring must divide the GPUs, got ring_size {self.ring_size} and {self.gpus} "
                "GPUs"
            )

    @property
    def itemsize(self) -> int:
        return 4 if self.train.dtype == "float32" else 2


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """Bytes of one thing on each GPU and on each GPU's share of the host."""

    name: str
    formula: str
    moment: Moment = "held"
    gpu: float = 0.0
    host: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Bytes there are on each GPU, and on the host for each GPU (None: not limited)."""

    gpu: float
    host: float | None = None

    @property
    def usable_gpu(self) -> float:
        """Without what is set aside."""
        return (self.gpu - RESERVE_BYTES) * (1 - RESERVE_SHARE)

    def holds(self, found: "list[Term]") -> bool:
        gpu, host = peak(found)
        return gpu <= self.usable_gpu and (self.host is None or host <= self.host)


def terms(setup: Setup, tokens: int) -> list[Term]:
    """Every term for `tokens` tokens on each GPU."""
    return [*_states(setup), *activation_terms(setup, tokens)]


def activation_terms(setup: Setup, tokens: int) -> list[Term]:
    """The terms that come and go within a step: all but weights, gradients and optimizer."""
    return [*_kept(setup, tokens), *_moments(setup, tokens)]


def peak(found: list[Term]) -> tuple[float, float]:
    """Bytes on a GPU and on its share of the host: what is held and the largest moment."""
    moments: dict[Moment, float] = {}
    for term in found:
        moments[term.moment] = moments.get(term.moment, 0.0) + term.gpu
    held = moments.pop("held", 0.0)
    return held + max(moments.values(), default=0.0), sum(term.host for term in found)


def longest(setup: Setup, budget: Budget) -> int:
    """Tokens of the longest sequence (over its whole ring) whose step fits; 0 if none does."""
    ring = setup.ring_size
    low, high = 0, MAX_TOKENS // ring
    while low < high:
        middle = (low + high + 1) // 2
        if budget.holds(terms(setup, middle)):
            low = middle
        else:
            high = middle - 1
    return low * ring


def _states(setup: Setup) -> list[Term]:
    """Weights, gradients, optimizer: nothing here depends on the length.

    With all of it on the host 18 bytes a parameter, as DeepSpeed's
    `estimate_zero3_model_states_mem_needs` has it before its safety factor.
    """
    train, count, b = setup.train, setup.model.parameters, setup.itemsize
    stage = train.zero_stage

    def share(first_stage: int) -> float:
        return count / setup.gpus if stage >= first_stage else float(count)

    def place(name: str, formula: str, size: float, *, away: bool) -> Term:
        gpu, host = (0.0, size) if away else (size, 0.0)
        return Term(name=name, formula=formula, gpu=gpu, host=host)

    offload = train.offload and stage >= 1
    offload_gradients = train.offload and stage >= 2
    # In plain float32 training the weights are their own master copy.
    optimizer_bytes = 12 if stage >= 1 else 8
    found = [
        place("weights", "b P, / GPUs from ZeRO-3", b * share(3), away=offload and stage == 3),
        place(
            "gradients",
            "b P, / GPUs from ZeRO-2; 4 bytes on the host",
            (4 if offload_gradients else b) * share(2),
            away=offload_gradients,
        ),
        place(
            "optimizer and master weights",
            "12 P (8 P without ZeRO), / GPUs from ZeRO-1",
            optimizer_bytes * share(1),
            away=offload,
        ),
    ]
    if stage >= 1:
        bucket = b * min(count, REDUCE_BUCKET)
        found.append(Term(name="gradient bucket", formula="b x 0.5e9 parameters", gpu=bucket))
    if stage == 3:
        live = b * min(count, LIVE_PARAMETERS)
        found.append(Term(name="gathered weights", formula="b x 1e9 parameters", gpu=live))
    return found


def _kept(setup: Setup, tokens: int) -> list[Term]:
    """What the forward pass leaves for the backward pass."""
    m, b, train = setup.model, setup.itemsize, setup.train
    if not train.checkpoint_activations:
        saved = (8 + 4 * b) * m.width + 4 * b * m.intermediate
        saved += 2 * b * (m.query_width + m.key_width) + 4 * m.heads
        formula = "L (8 D + 4 b D + 4 b I + 2 b (A + K) + 4 N) a layer"
        layer = tokens * saved
        return [
            Term(name="activations of layers", formula=formula, gpu=(m.layers - 1) * layer),
            # The other moments have their own count of the layer that they work on.
            Term(name="activations of one layer", formula=formula, moment="loss", gpu=layer),
        ]
    away = train.offload_activations
    # What was moved away comes back for one layer at a time.
    here, there = (1, m.layers) if away else (m.layers, 0)
    layer_input = tokens * m.width * b
    ring_out, ring_lse = tokens * m.query_width * b, 4 * tokens * m.heads
    ring_output = ring_out + ring_lse
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
    shares = 3 * m.width * m.intermediate * b if tiles > 1 else 0
    saved = b * (a + 2 * k)
    return [
        Term(
            name="MLP of a layer",
            formula="6 S I b; 5 L D b + 12 L D; L (A + 2 K) b; 3 D I b in tiles",
            moment="mlp",
            gpu=6 * tile * m.intermediate * b + (5 * b + 12) * d + saved + shares,
        ),
        Term(
            name="norms of a layer",
            formula="L D b + 36 L D; L (A + 2 K) b",
            moment="norms",
            gpu=(b + 36) * d + saved,
        ),
        Term(
            name="attention of a layer",
            formula="2 L D b + 12 L D; L A (3 b + 4) + 4 L N; 4 L K b; keys on the way",
            moment="attention",
            gpu=(2 * b + 12) * d
            + (3 * b + 4) * a
            + 4 * m.heads * tokens
            + 4 * b * k
            + _keys_on_the_way(setup, k),
        ),
        _loss(setup, tokens),
    ]


def _keys_on_the_way(setup: Setup, k: int) -> float:
    """Ring: dk and dv in float32, twice, and beyond one rank keys and values twice in b.

    All-gather: keys and values of the ring in b, their gradients in float32, both twice (computed;
    on one rank, and with the CPU kernel, it allocates other things).
    """
    b, ring = setup.itemsize, setup.ring_size
    if setup.train.ring_schedule == "all_gather" and ring > 1:
        return 2 * 2 * ring * k * (b + 4)
    return 16 * k + (4 * b * k if ring > 1 else 0)


def _loss(setup: Setup, tokens: int) -> Term:
    m, b = setup.model, setup.itemsize
    final = (4 + 4 * b) * tokens * m.width
    if not setup.tiled_loss:
        scores = (12 + b) * tokens * m.words
        return Term(
            name="loss, all scores",
            formula="(12 + b) L V; (4 + 4 b) L D",
            moment="loss",
            gpu=scores + final,
        )
    tile = min(tokens, max(1, TILE_BYTES // (4 * m.words)))
    low = b if b < 4 else 0  # copies that only low precision needs
    fixed = (4 + low) * m.words * (m.width + tile)
    return Term(
        name="loss, in tiles",
        formula="(4 + b) V (D + S); (4 + 4 b) L D",
        moment="loss",
        gpu=fixed + final,
    )
