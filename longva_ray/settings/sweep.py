"""Settings of every evaluation that is spread over a cluster."""

import dataclasses

from longva_ray.settings.base import Dtype, Settings


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SweepConfig(Settings):
    """How prompts are spread over a cluster, and how each is read."""

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
        self.check_at_least(1, "ring_size", "prefill_chunk", "max_workers")
        if self.dtype == "float32" and self.worker_gpus and self.ring_size > 1:
            raise ValueError(
                "attention kernels of GPUs take 16 bits, got dtype float32 with a ring of "
                f"{self.ring_size} on GPUs; set {self.option('dtype')} bfloat16, "
                f"{self.option('ring_size')} 1 or {self.option('worker_gpus')} 0"
            )
        if self.worker_cpus < 0 or self.worker_gpus < 0 or self.worker_cpus + self.worker_gpus == 0:
            raise ValueError(
                "a worker needs some CPU or GPU, got "
                f"{self.option('worker_cpus')} {self.worker_cpus:g} and "
                f"{self.option('worker_gpus')} {self.worker_gpus:g}"
            )
