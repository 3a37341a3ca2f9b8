"""Settings of answering: how an answer is sampled, and how the server is deployed."""

import dataclasses
import math
from typing import ClassVar, Literal

from longva_ray.settings.base import Dtype, Settings


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
class ServeConfig(Settings):
    """How the evaluation and chat application is deployed."""

    stage: ClassVar[str] = "serve"
    host: str = "127.0.0.1"
    """Address to listen on. Other machines cannot reach the default. An address that they can reach
    needs an API key."""
    port: int = 8000
    lm_replicas: int = 1
    lm_cpus: float = 1.0
    lm_gpus: float = 0.0
    encoder_gpus: float = 0.0
    """GPUs of the replica that encodes videos which are not in the store yet. A fraction shares a
    GPU with the language model."""
    dtype: Dtype = "bfloat16"
    prefill_chunk: int = 2048
    """Prompt tokens in one forward pass while the KV cache is filled. Bounds the memory of
    activations."""
    max_prompt_tokens: int | None = None
    """Longest prompt accepted, visual tokens and the answer included; None leaves it to the
    checkpoint's own limit."""
    session_gib: float = 4.0
    """KV of videos and images that a replica keeps for further questions about them, which then
    need not be read again; 0 keeps none. 1000 frames of LongVA-7B take 7.7."""
    max_body_mib: int = 64
    """Longest body of a request. It holds the images that clients send, a third longer for base64,
    and names the videos."""
    max_images: int = 256
    """Most images of a request, which may be the frames of a video."""
    max_image_mib: int = 20
    """Largest file of an image."""
    max_image_megapixels: int = 64
    """Largest picture that is decoded. 64 take 200 MB."""
    max_ongoing_requests: int = 4
    """Questions that one replica works on at a time; each holds its own KV cache."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    max_queued_requests: int = 32
    """Requests that may wait at one proxy before it answers 503. A queue without a limit would only
    hide an overload."""

    def __post_init__(self) -> None:
        self.check_at_least(0, "session_gib")
        if math.isinf(self.session_gib):
            raise ValueError(
                f"{self.option('session_gib')} must be a number of GiB, got {self.session_gib}; "
                "give what the replica's memory can spare"
            )
        self.check_at_least(0, "lm_cpus", "lm_gpus", "encoder_gpus", "port")
        self.check_at_least(
            1,
            "lm_replicas",
            "prefill_chunk",
            "max_prompt_tokens",
            "max_body_mib",
            "max_images",
            "max_image_mib",
            "max_image_megapixels",
            "max_ongoing_requests",
        )
