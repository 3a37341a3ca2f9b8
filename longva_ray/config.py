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

from longva_ray.train.settings import AlignConfig as AlignConfig
from longva_ray.train.settings import ExtendConfig as ExtendConfig
from longva_ray.train.settings import ImageDataConfig as ImageDataConfig
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
    """Address to listen on. The default is not reachable from other machines; any that is needs an
    API key."""
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
    """Longest prompt accepted, visual tokens and the answer included; None leaves it to the
    checkpoint's own limit."""
    max_ongoing_requests: int = 4
    """Questions that one replica works on at a time; each holds a KV cache of its own."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    max_queued_requests: int = 32
    """Requests waiting at one proxy before it answers 503; an unbounded queue only hides an
    overload."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TextDataConfig:
    """How text becomes token shards for the text extension (section 3.1 of the paper)."""

    tokenizer: str | None = None
    """Checkpoint whose tokenizer is used: a folder or a Hugging Face id; None means the recipe's
    own."""
    sequence_length: int = 224_000
    """Tokens of one training sequence (section 3.1)."""
    upsample_longer_than: int = 4096
    """Documents of more tokens than this are up-sampled (section 3.1)."""
    upsample_factor: float = 5.0
    """How many times as often as a short document of its domain a long one is taken; 1 turns
    up-sampling off. The paper gives no number. Where long documents hold 30% of the tokens, about
    as in SlimPajama (Fu et al. 2024, Figure 2), 5 makes it 68%."""
    target_tokens: int | None = None
    """Tokens to write, before padding; None means as many as the source has."""
    separator: str = "auto"
    """Token between documents: `bos` before each, `eos` behind each, `auto` for BOS where the
    tokenizer has one and else EOS (section 3.1), or a token by its text, behind each."""
    keep_whole: bool = False
    """Never cut a document: what does not fit goes to the next sequence and the rest is padded."""
    text_field: str = "text"
    """Field or column of the text; a dot reaches into a nested one."""
    domain_field: str | None = "meta.redpajama_set_name"
    """Field or column of the domain, whose share in tokens is kept (default: SlimPajama's); None
    puts everything into one. In a folder of text files the domain is the first subfolder."""
    labels_field: str | None = None
    """Field or column with the character spans [start, stop) of a text that are trained on; the
    rest is read only. None trains on everything, as language models are."""
    parse_special_tokens: bool = False
    """Whether `<|im_start|>` and the like in a text become control tokens; by default a text cannot
    contain any."""
    on_error: Literal["stop", "skip"] = "stop"
    """What to do with a record or file that cannot be read: stop, or leave it out and count it."""
    seed: int = 0
    """Decides which documents are repeated or left out, and their order."""
    part_tokens: int = 2**24
    """Tokens of one file of shards: the unit of packing and resuming; 64 MiB."""
    group_bytes: int = 16 * 2**20
    """Small files are read together until they reach this size, and larger ones of plain JSON lines
    in parts of it: the unit of tokenising."""
    task_cpus: float = 1.0
    """CPUs that Ray reserves for one task."""
    max_tasks: int | None = None
    """Most tasks at a time; None means as many as the cluster has CPUs for."""

    def __post_init__(self) -> None:
        for name in ("sequence_length", "part_tokens", "group_bytes", "upsample_longer_than"):
            if getattr(self, name) < 1:
                raise ValueError(f"text.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("target_tokens", "max_tasks"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"text.{name} must be at least 1 or None, got {value}")
        if self.upsample_factor < 1:
            raise ValueError(
                f"text.upsample_factor must be at least 1, got {self.upsample_factor}; 1 leaves "
                "the lengths as they are"
            )
        if self.task_cpus <= 0:
            raise ValueError(f"text.task_cpus must be above 0, got {self.task_cpus}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SweepConfig:
    """How the cells of a needle test are spread over a cluster, and how each is scored."""

    dtype: Dtype = "bfloat16"
    """Number format of the model under test; the paper evaluates in bfloat16."""
    ring_size: int = 1
    """Processes that share one prompt by ring attention, for prompts beyond one device's memory.
    Above 1 prompts are scored by teacher forcing alone, without a KV cache."""
    max_workers: int | None = None
    """Most models (rings) at work at a time; None means as many as fit into the cluster now."""
    worker_cpus: float = 1.0
    """CPUs that Ray reserves for each process of a ring."""
    worker_gpus: float = 1.0
    """GPUs that Ray reserves for each process of a ring; 0 runs on CPUs."""
    prefill_chunk: int = 2048
    """Prompt tokens in one forward pass. Prompts share what they begin with in whole chunks."""
    reuse_prefix: bool = True
    """Compute the KV of what consecutive prompts begin with once. Changes seconds, no decision."""
    generate: bool = True
    """Let the model answer freely too, beside the paper's teacher-forced rule."""
    extra_tokens: int = 4
    """Tokens that a free answer may be longer than the right one."""
    seed: int = 0

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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NiahConfig(SweepConfig):
    """The needle-in-a-haystack test on text (appendix A of the paper)."""

    lengths: tuple[int, ...] = tuple(range(32_000, 512_001, 32_000))
    """Tokens of the whole sequence, question and answer included (scripts: 32K..512K, step 32K)."""
    depths: tuple[float, ...] = tuple(step / 10 for step in range(11))
    """Where the needle lies: 0 is the beginning of the haystack, 1 its end (scripts: step .1)."""
    samples: int = 5
    """Prompts for each length and depth, each with another number (appendix A)."""
    distractors: tuple[int, ...] = (0, 3, 5)
    """Needles about other cities in the same haystack; one panel for each number (appendix A)."""
    digits: int = 7
    """Digits of a magic number (appendix A)."""
    city: str | None = "Singapore"
    """Whose number is asked for (appendix A); None draws one of `cities` for each prompt."""
    cities: tuple[str, ...] = (
        "Singapore",
        "New York",
        "London",
        "Paris",
        "Tokyo",
        "Beijing",
        "Berlin",
        "Cairo",
    )
    """Cities that distractors are about, and needles when `city` is None."""
    prefix: str = "This is a very long story book: <book>"
    """What stands before the haystack (appendix A)."""
    needle: str = "\nThe special magic {city} number is: {number}.\n"
    question: str = (
        "</book>.\n Based on the content of the book, Question: What is the special magic {city} "
        "number? Answer: The special magic {city} number is:"
    )
    """What stands behind the haystack; the answer continues it."""
    answer: str = " {number}"
    essays: str | None = None
    """Folder of .txt files that the haystack is made of, in the order of their names; None takes
    the ones in this package."""
    rope_bases: tuple[float, ...] = ()
    """RoPE bases to try on the first model without any training; the best by score is reported.
    The paper tries 3e6 1e7 3e7 1e8 3e8 1e9 (section 5.1)."""
    perplexity_windows: int = 4
    """Windows over which perplexity by position is averaged, of the longest length or of all the
    essays where they are shorter; 0 leaves the plot out."""

    def __post_init__(self) -> None:
        SweepConfig.__post_init__(self)
        if not self.lengths or not self.depths or not self.distractors or self.samples < 1:
            raise ValueError("lengths, depths, distractors and samples must not be empty")
        if any(not 0 <= depth <= 1 for depth in self.depths):
            raise ValueError(f"depths must lie in [0, 1], got {self.depths}")
        if min(self.distractors) < 0 or max(self.distractors) >= len(self.cities):
            raise ValueError(
                f"distractors={self.distractors} with {len(self.cities)} cities; each is about a "
                "city of its own, so give more cities"
            )
        if self.city is not None and self.city not in self.cities:
            raise ValueError(f"city {self.city!r} is none of cities {self.cities}; add it there")
        if not 1 <= self.digits <= 18:
            raise ValueError(f"digits must lie in [1, 18], got {self.digits}")
        for name in ("needle", "answer"):
            if "{number}" not in getattr(self, name):
                raise ValueError(f"{name} must contain {{number}}, got {getattr(self, name)!r}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VniahConfig(SweepConfig):
    """The needle-in-a-haystack test on video (section 4 of the paper)."""

    frames: tuple[int, ...] = tuple(range(200, 3001, 200))
    """Frames of the haystack (scripts: 200 to 3000, step 200)."""
    depths: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Where the needle lies: before frame int(depth x frames) (scripts: step .2)."""
    needles: str | None = None
    """Dataset of needles: a .json or .parquet file, or a folder of a dataset, with the columns
    image, question and answer, as lmms-lab/v_niah_needles has; None draws cards with numbers."""
    floor: bool = True
    """Ask every question once more without its needle, to see what can be guessed."""
    rope_bases: tuple[float, ...] = ()
    """RoPE bases to try on the last model without any training; the best by score is reported.
    The paper tries 3e6 1e7 3e7 1e8 3e8 1e9 (section 5.1)."""
    compare_plain: bool = False
    """Run everything again without prefix reuse: reports the seconds of both and asserts that no
    decision differs."""
    extra_tokens: int = 16

    def __post_init__(self) -> None:
        SweepConfig.__post_init__(self)
        if not self.frames or not self.depths or min(self.frames) < 1:
            raise ValueError(f"frames and depths must not be empty, got {self.frames}")
        if any(not 0 <= depth <= 1 for depth in self.depths):
            raise ValueError(f"depths must lie in [0, 1], got {self.depths}")
        if self.compare_plain and not (self.reuse_prefix and self.ring_size == 1):
            raise ValueError("compare_plain compares reuse_prefix=True, ring_size=1 with neither")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A complete named set-up: which weights, and every stage's settings."""

    name: str
    description: str
    checkpoint: str | None
    """Folder or Hugging Face id of LongVA weights; None, there are none: text only."""
    encode: EncodeConfig = EncodeConfig()
    serve: ServeConfig = ServeConfig()
    niah: NiahConfig = NiahConfig()
    vniah: VniahConfig = VniahConfig()
    base: str | None = None
    """Folder or Hugging Face id of the language model that text extension starts from."""
    extend: ExtendConfig = dataclasses.field(default_factory=ExtendConfig)
    text: TextDataConfig = TextDataConfig()
    images: ImageDataConfig = dataclasses.field(default_factory=ImageDataConfig)
    align_projector: AlignConfig = dataclasses.field(
        default_factory=lambda: AlignConfig(
            train="projector", learning_rate=1e-3, steps=3_000, warmup_steps=90
        )
    )
    """Stage 1: 558K captions of about 180 tokens, once, at the scripts' learning rate."""
    align: AlignConfig = dataclasses.field(default_factory=AlignConfig)
    """Stage 2."""


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
