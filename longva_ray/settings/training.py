"""Settings of the training stages; `longva_ray.settings.recipe` is where recipes take them from.

Each default cites its source: a section of the paper, or the released scripts where it is silent.
"""

import dataclasses
from typing import ClassVar, Literal

from longva_ray.settings.base import Settings

Schedule = Literal["constant", "linear", "cosine"]

Reference = Literal["stored", "live"]
"""Whether log-probabilities of the reference model stand in preference shards, or are computed
while training."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(Settings):
    """What every training stage has in common: steps, optimizer, workers, recovery."""

    stage: ClassVar[str] = "extend"
    steps: int = 1000
    """Optimizer steps of the whole run, including those before a restart."""
    sequences_per_step: int = 4
    """Rows in one optimizer step over all workers. A ring that has several accumulates their
    gradients."""
    learning_rate: float = 1e-5
    schedule: Schedule = "constant"
    """What comes after the warmup; linear and cosine end at zero."""
    warmup_steps: int = 0
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    seed: int = 2024
    """Order of the rows, and random initialisation where there is one."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format of weights and activations; the optimizer keeps float32."""
    zero_stage: Literal[0, 1, 2, 3] = 3
    """What DeepSpeed divides over the workers: optimizer states (1), gradients (2), weights (3).
    0 is plain torch in float32, without DeepSpeed."""
    offload: bool = True
    """Keep optimizer states, and with stage 3 weights, in host memory."""
    checkpoint_activations: bool = True
    """Keep only the inputs of layers, and compute the rest again in the backward pass."""
    offload_activations: bool = True
    """Keep those layer inputs in host memory."""
    tile_mlps: bool = False
    """Run MLPs over tiles of tokens: less memory, a little slower. Meant for the longest sequences;
    a worker's share below 65,536 tokens is not cut."""
    num_workers: int = 8
    ring_size: int = 8
    """Workers that share one sequence; divides `num_workers`."""
    ring_schedule: Literal["ring", "all_gather"] = "ring"
    """How keys and values reach the workers of a ring. `ring` passes them on while attention is
    computed; `all_gather` fetches those of the whole sequence first, which takes more memory and
    rounds each result once."""
    ring_kernel: Literal["cudnn", "flash-attn", "aten", "fa4"] | None = None
    """Attention kernel on a worker's device; None takes the best one that runs there (docs/gpu.md).
    `aten` is torch's own; `fa4` puts version 4 in its place and wants the package flash-attn-4."""
    gpus_per_worker: float = 1.0
    """0 trains on CPUs."""
    cpus_per_worker: float = 1.0
    """Also the number of threads of a worker, which an offloaded optimizer computes with."""
    checkpoint_every: int = 200
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    validate_every: int | None = None
    """Steps between readings of the held-out rows (`--text.held-out` and its like), which are also
    read after the last step; None, never. It changes nothing that is trained."""
    max_failures: int = 3
    """How many times lost workers are replaced and training goes on from the last checkpoint."""
    collective_timeout_s: int = 1800
    """Longest wait for another worker before the run fails and says what each one did last."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    """Where metrics go besides metrics.jsonl."""

    def __post_init__(self) -> None:
        self.check_at_least(1, "steps", "sequences_per_step", "num_workers", "ring_size")
        self.check_at_least(1, "checkpoint_every", "keep_checkpoints", "collective_timeout_s")
        self.check_at_least(1, "validate_every")
        self.check_at_least(0, "warmup_steps", "gpus_per_worker", "max_failures")
        self.check_above(0, "learning_rate", "max_grad_norm", "cpus_per_worker")
        option = self.option
        if self.num_workers % self.ring_size:
            raise ValueError(
                f"{option('ring_size')} must divide {option('num_workers')}, got "
                f"{self.ring_size} and {self.num_workers}"
            )
        if self.zero_stage == 0 and (self.dtype != "float32" or self.offload):
            raise ValueError(
                f"{option('zero_stage')} 0 trains in float32 without offload, got "
                f"{option('dtype')} {self.dtype} and offload {self.offload}; set "
                f"{option('dtype')} float32 and {option('no_offload')}, or "
                f"{option('zero_stage')} 1 to 3"
            )
        if self.dtype == "float32" and self.gpus_per_worker:
            raise ValueError(
                f"attention kernels of GPUs take bfloat16, got {option('dtype')} float32 with "
                f"{option('gpus_per_worker')} {self.gpus_per_worker:g}; set {option('dtype')} "
                f"bfloat16 (and {option('zero_stage')} 1 to 3), or {option('gpus_per_worker')} 0"
            )

    @property
    def data_size(self) -> int:
        """How many rings train next to each other."""
        return self.num_workers // self.ring_size

    def validates_after(self, step: int) -> bool:
        """Whether the held-out rows are read after so many steps."""
        every = self.validate_every
        return every is not None and (step % every == 0 or step == self.steps)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ExtendConfig(TrainConfig):
    """How the context of a language model is stretched on text (section 3.1, Appendix A, and the
    released scripts where the paper is silent)."""

    rope_theta: float = 1e9
    """New base of the rotary embedding."""
    max_tokens: int = 224_000
    """Longest sequence: the limit for rows, and what the model's configuration says afterwards."""
    mask_documents: bool = True
    """Documents packed into one row do not see each other; false packs them as the paper did."""
    rows_per_batch: int = 1
    """Rows in one forward pass, one after another. More than 1 pays when rows are short."""
    from_scratch: bool = False
    """Random weights of the base model's architecture: pre-training with the same loop."""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        self.check_at_least(1, "max_tokens", "rows_per_batch")
        share = self.data_size * self.rows_per_batch
        if self.sequences_per_step % share:
            raise ValueError(
                f"{self.option('sequences_per_step')} must be a multiple of the number of rings "
                f"times {self.option('rows_per_batch')}, {self.data_size} x "
                f"{self.rows_per_batch}, got {self.sequences_per_step}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VisionTrainConfig(TrainConfig):
    """What the stages have in common that may train the vision tower and the projector."""

    projector_learning_rate: float | None = None
    """Of the projector; None is `learning_rate`, as in the released scripts."""
    vision_learning_rate: float | None = None
    """Of the vision tower, whose schedule is the same; None is `learning_rate`, 0 leaves the tower
    as it is."""
    grids_per_forward: int = 16
    """Grids in one forward pass of the vision tower. Bounds its memory, whatever a row holds."""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        self.check_above(0, "projector_learning_rate")
        self.check_at_least(0, "vision_learning_rate")
        self.check_at_least(1, "grids_per_forward")
        # Rows of images and pairs of answers differ in length.
        if self.tile_mlps and self.zero_stage == 3 and self.data_size > 1:
            raise ValueError(
                f"{self.option('tile_mlps')} under {self.option('zero_stage')} 3 wants a single "
                "ring, since rows of several rings "
                "differ in length and their workers would wait for each other; got "
                f"{self.data_size} rings"
            )
        if self.sequences_per_step % self.data_size:
            raise ValueError(
                f"{self.option('sequences_per_step')} must be a multiple of the number of rings, "
                f"{self.data_size}, got {self.sequences_per_step}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AlignConfig(VisionTrainConfig):
    """One stage of vision alignment (section 3.2: the two stages of LLaVA-1.6); numbers of the
    released scripts, by default those of the second."""

    stage: ClassVar[str] = "align"
    train: Literal["projector", "all"] = "all"
    """Stage 1 trains the projector, stage 2 everything."""
    vision_learning_rate: float | None = 2e-6
    """Of the vision tower; None is `learning_rate`, 0 leaves the tower as it is."""
    steps: int = 20_000
    """LLaVA-1.6's 760K samples of about 850 tokens, once, at one row of 32768 tokens a step."""
    sequences_per_step: int = 1
    """Packed rows in one optimizer step. One row holds as many samples as the scripts' batch on 8
    GPUs."""
    schedule: Schedule = "cosine"
    warmup_steps: int = 600
    """The scripts warm up for 3% of the steps."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0

    @property
    def group(self) -> str:
        """Each of the two stages has options of its own."""
        return "align-projector" if self.train == "projector" else "align"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PreferConfig(VisionTrainConfig):
    """Preference tuning (section 5.2; numbers of the released script, on 8 GPUs)."""

    stage: ClassVar[str] = "prefer"
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    """DPO's own, or IPO (`lm.preference`)."""
    beta: float = 0.1
    """How close the model is kept to what it was."""
    sft_weight: float = 0.0
    """Weight of the chosen answer's mean negative log-likelihood (the script's `gamma`)."""
    reference: Reference = "stored"
    """Where log-probabilities of the model before training are from. `stored`: from the shards.
    `live`: from a second, frozen language model in every step, divided as the trained one is; for
    shards without them, and to start from another model than the one that prepared them."""
    train: Literal["language", "all"] = "language"
    """The language model alone, or the vision tower and the projector too, as the released code
    does. `all` wants shards with pixels (`--preferences.pixels`)."""
    steps: int = 400
    """The script's 17K pairs, three times, at 128 pairs a step."""
    sequences_per_step: int = 128
    """Pairs in one optimizer step: 1 a GPU, accumulated 16 times."""
    learning_rate: float = 5e-7
    schedule: Schedule = "linear"
    warmup_steps: int = 40
    """The script warms up for 10% of the steps."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    ring_size: int = 1
    """Workers that share one pair; divides `num_workers`. Pairs about 10 frames are short."""
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        VisionTrainConfig.__post_init__(self)
        self.check_above(0, "beta")
        self.check_at_least(0, "sft_weight")

    @property
    def trains_tower(self) -> bool:
        return self.train == "all" and self.vision_learning_rate != 0
