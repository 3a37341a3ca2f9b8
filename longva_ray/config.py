"""The typed settings of every stage, as frozen keyword-only dataclasses.

Each default cites where it comes from: a section of the paper (*Long Context Transfer from Language
to Vision*), the released scripts, or a limit of ours. Settings that change what an image or a video
turns into (grid rule, frame fitting, pooling, vision layer) are not here: they belong to the
weights and live in `lm.longva.LongVAConfig`.

`from_dict` refuses unknown keys, so a misspelt option is an error and never a silent default.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal, TypeVar

from longva_ray.video.probe import DecoderName
from longva_ray.video.sampling import Sampling

Dtype = Literal["float32", "bfloat16", "float16"]

ConfigT = TypeVar("ConfigT")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EncodeConfig:
    """How videos become embedding shards."""

    sampling: str = "1fps"
    """Which frames: `1fps` (section 4 of the paper), `0.5fps`, `uniform:128` or `every`."""
    dtype: Dtype = "bfloat16"
    """Number format of the encoder and of the stored tokens; the released model runs in 16 bits."""
    micro_batch: int = 32
    """Frames in one forward pass of the vision tower. Bounds its memory whatever the length of the
    video."""
    part_frames: int = 64
    """Frames in one shard file: the unit of work, of resuming and of a disk read."""
    decoder: DecoderName = "pyav"
    """Who decodes: PyAV, or decord, which is slower and does not notice damage (`video.decode`)."""
    decode_cpus: float = 0.9
    """CPUs that Ray reserves for one decoding task."""
    encoder_cpus: float = 1.0
    """CPUs that Ray reserves for one encoder actor."""
    encoder_gpus: float = 1.0
    """GPUs that Ray reserves for one encoder actor; 0 encodes on CPUs."""
    max_encoders: int | None = None
    """Most encoder actors; None means as many as the GPUs of the cluster hold now, or one without
    GPUs. A number tells an autoscaling cluster, which may show no GPU at first, how far to grow."""

    def __post_init__(self) -> None:
        Sampling.parse(self.sampling)
        for name in ("micro_batch", "part_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("decode_cpus", "encoder_cpus"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.max_encoders is not None and self.max_encoders < 1:
            raise ValueError(f"max_encoders must be at least 1 or None, got {self.max_encoders}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GenerationSettings:
    """How an answer is sampled. Defaults are greedy, as in the paper's evaluations (temperature
    0)."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature must lie in [0, 2], got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """How the evaluation and chat application is deployed."""

    host: str = "127.0.0.1"
    """Address to listen on. The default is not reachable from other machines; set an API key before
    opening it."""
    port: int = 8000
    lm_replicas: int = 1
    lm_cpus: float = 1.0
    lm_gpus: float = 0.0
    encoder_gpus: float = 0.0
    """GPUs of the replica that encodes videos nobody encoded yet; a fraction shares one with the
    language model."""
    dtype: Dtype = "bfloat16"
    prefill_chunk: int = 2048
    """Prompt tokens in one forward pass while the KV cache is filled. Bounds activation and mask
    memory."""
    max_prompt_tokens: int | None = None
    """Longest prompt accepted, visual tokens included; None leaves it to the checkpoint's own
    limit."""
    max_ongoing_requests: int = 4
    """Questions that one replica works on at a time; each holds a KV cache of its own."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    max_queued_requests: int = 32
    """Requests waiting at one proxy before it answers 503; an unbounded queue only hides an
    overload."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A complete named set-up: which weights, and every stage's settings."""

    name: str
    description: str
    checkpoint: str | None
    """Folder or Hugging Face id of the weights; None means weights initialised from `seed`."""
    seed: int = 0
    encode: EncodeConfig = EncodeConfig()
    serve: ServeConfig = ServeConfig()


def from_dict(config_class: type[ConfigT], values: dict[str, Any]) -> ConfigT:
    """Build a config from a plain dictionary, nested ones included.

    Raises ValueError for a key that the config does not have, naming the valid ones.
    """
    fields = {field.name: field for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ValueError(
            f"unknown option(s) {unknown} for {config_class.__name__}; valid: {sorted(fields)}"
        )
    nested = {
        name: from_dict(fields[name].type, value)  # type: ignore[arg-type]
        if dataclasses.is_dataclass(fields[name].type) and isinstance(value, dict)
        else tuple(value)
        if isinstance(value, list)
        else value
        for name, value in values.items()
    }
    return config_class(**nested)


def save_config(config: Any, path: str | Path) -> None:
    """Write the resolved config as JSON beside the output that it produced."""
    Path(path).write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
