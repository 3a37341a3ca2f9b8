"""Settings of every evaluation that is spread over a cluster."""

import dataclasses
from typing import ClassVar

from longva_ray.settings.base import Dtype


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SweepConfig:
    """How prompts are spread over a cluster, and how each is read."""

    stage: ClassVar[str]
    """What a recipe calls these settings: they are typed as `--stage.name`."""
    dtype: Dtype = "bfloat16"
    """Number format of the model under test; the paper evaluates in bfloat16."""
    ring_size: int = 1
    """Processes that share one prompt by ring attention, for prompts that one device cannot hold.
    With more than 1, prompts are scored by teacher forcing alone, without a KV cache."""
    max_workers: int | None = None
    """Most models (rings) that work at the same time; None means as many as fit into the cluster
    now."""
    worker_cpus: float = 1.0
    """CPUs that Ray reserves for each process of a ring."""
    worker_gpus: float = 1.0
    """GPUs that Ray reserves for each process of a ring; 0 runs on CPUs."""
    prefill_chunk: int = 2048
    """Prompt tokens in one forward pass. Prompts share their beginning in whole chunks of it."""
    reuse_prefix: bool = True
    """Compute the KV of a beginning that consecutive prompts share only once. Changes the time, and
    no decision."""

    def __post_init__(self) -> None:
        for name in ("ring_size", "prefill_chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_workers is not None and self.max_workers < 1:
            raise ValueError(f"max_workers must be at least 1 or None, got {self.max_workers}")
        if self.dtype == "float32" and self.worker_gpus and self.ring_size > 1:
            raise ValueError(
                "attention kernels of GPUs take 16 bits, got dtype float32 with a ring of "
                f"{self.ring_size} on GPUs; set dtype bfloat16, ring_size 1 or worker_gpus 0"
            )
        if self.worker_cpus < 0 or self.worker_gpus < 0 or self.worker_cpus + self.worker_gpus == 0:
            raise ValueError(
                "a worker needs some CPU or GPU, got "
                f"worker_cpus={self.worker_cpus}, worker_gpus={self.worker_gpus}"
            )
