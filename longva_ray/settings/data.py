"""Settings of training data: texts, images, and pairs of answers -> shards."""

import dataclasses
from typing import ClassVar, Literal

from longva_ray.settings.base import Dtype, Settings
from longva_ray.settings.training import Reference
from longva_ray.video.sampling import Sampling


class DataConfig(Settings):
    """What all of them are checked for."""

    __slots__ = ()

    held_out: float | None

    def check_data(self) -> None:
        """Raises ValueError for tasks without CPUs, and a share that is none."""
        self.check_at_least(1, "max_tasks")
        self.check_above(0, "task_cpus")
        held_out = self.held_out
        if held_out is not None and (held_out <= 0 or (held_out > 1 and held_out % 1)):
            raise ValueError(
                f"{self.option('held_out')} must be a whole number, a share between 0 and 1, or "
                f"None, got {held_out:g}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TextDataConfig(DataConfig):
    """How text becomes token shards for the text extension (section 3.1 of the paper)."""

    stage: ClassVar[str] = "text"
    tokenizer: str | None = None
    """Checkpoint whose tokenizer is used: a folder or a Hugging Face id; None means the recipe's
    own."""
    sequence_length: int = 224_000
    """Tokens of one training sequence (section 3.1)."""
    upsample_longer_than: int = 4096
    """Documents of more tokens than this are up-sampled (section 3.1)."""
    upsample_factor: float = 5.0
    """How much more often a long document is taken than a short one of its domain; 1 turns
    up-sampling off. The paper gives no number. Where long documents hold 30% of the tokens, about
    as in SlimPajama (Fu et al. 2024, Figure 2), 5 makes it 68%."""
    target_tokens: int | None = None
    """Tokens to write, before padding; None means as many as the source has."""
    separator: str = "auto"
    """Token between documents: `bos` before each, `eos` after each, or a token given by its text,
    after each. `auto` is BOS where the tokenizer has one, and EOS otherwise (section 3.1)."""
    keep_whole: bool = False
    """Never cut a document. One that does not fit goes to the next sequence, and the rest is
    padded."""
    text_field: str = "text"
    """Field or column of the text; a dot reaches into a nested one."""
    domain_field: str | None = "meta.redpajama_set_name"
    """Field or column of the domain, whose share in tokens is kept (default: SlimPajama's); None
    puts everything into one. In a folder of text files the domain is the first subfolder."""
    labels_field: str | None = None
    """Field or column with the character spans [start, stop) of a text that are trained on; the
    rest is only read. None trains on everything, as is usual for language models."""
    parse_special_tokens: bool = False
    """Whether `<|im_start|>` and the like in a text become control tokens. By default a text cannot
    contain control tokens."""
    on_error: Literal["stop", "skip"] = "stop"
    """What to do with a record or file that cannot be read: stop, or leave it out and count it."""
    held_out: float | None = None
    """Documents that are not trained on but validated on (`--extend.validate-every`): how many, or
    below 1, what share of all; None, none. They are chosen by a digest of their tokens, so equal
    documents stay together. They lie in the folder `held_out` of the shards, each of them once."""
    seed: int = 0
    """Decides which documents are held out, repeated or left out, and their order."""
    part_tokens: int = 2**24
    """Tokens in one file of shards, 64 MiB: the unit of packing and of resuming."""
    group_bytes: int = 16 * 2**20
    """The unit of tokenising. Small files are read together until they reach this size; larger
    files of plain JSON lines are read in parts of this size."""
    task_cpus: float = 1.0
    """CPUs that Ray reserves for one task."""
    max_tasks: int | None = None
    """Most tasks at a time; None means as many as the cluster has CPUs for."""

    def __post_init__(self) -> None:
        self.check_data()
        self.check_at_least(1, "sequence_length", "part_tokens", "group_bytes")
        self.check_at_least(1, "upsample_longer_than", "upsample_factor", "target_tokens")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImageDataConfig(DataConfig):
    """How images and conversations in LLaVA's form become vision shards (section 3.2)."""

    stage: ClassVar[str] = "images"
    row_tokens: int = 32_768
    """Most tokens in a row of packed samples; a longer sample cannot be used (scripts: 32768)."""
    image_folder: str | None = None
    """What paths of images are relative to; None, the folder of each JSON file."""
    sampling: str = "1fps"
    """Which frames of a video sample: `1fps`, `1fps-by-count`, `uniform:32` or `every`
    (`video.sampling`)."""
    on_error: Literal["skip", "stop"] = "skip"
    """What to do with a sample that cannot be used: leave it out and name it in the report, or
    stop."""
    held_out: float | None = None
    """Samples that are not trained on but validated on (`--align.validate-every`): how many, or
    below 1, what share of all; None, none. They are chosen by a digest of the images that they
    show, so samples about one image stay together. They lie in the folder `held_out` of the
    shards."""
    seed: int = 0
    """Decides which samples are held out, their order, and what `random` in a mixture takes."""
    part_samples: int = 256
    """Samples in one file of shards: the unit of parallel work and of resuming."""
    task_cpus: float = 1.0
    """CPUs that Ray reserves for one task."""
    max_tasks: int | None = None
    """Most tasks at a time; None means as many as the cluster has CPUs for."""

    def __post_init__(self) -> None:
        Sampling.parse(self.sampling)
        self.check_data()
        self.check_at_least(1, "row_tokens", "part_samples")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceDataConfig(DataConfig):
    """How pairs of answers become preference shards (section 5.2; numbers of the released
    scripts)."""

    stage: ClassVar[str] = "preferences"
    media_folder: str | None = None
    """What paths of videos and images are relative to; None, the folder of each file of pairs."""
    frames: int | None = None
    """Read at most so many frames of a video, spread evenly over the encoded ones; None, all."""
    max_tokens: int = 32_768
    """Longest prompt with an answer; a longer pair cannot be used (scripts: 32768)."""
    held_out: float | None = None
    """Pairs that are not trained on but validated on (`--prefer.validate-every`): how many, or
    below 1, what share of all; None, none. They are chosen by a digest of the video's name, so
    pairs about one video stay together. They lie in the folder `held_out` of the shards."""
    reference: Reference = "stored"
    """`stored` asks the model before training how likely each answer is, and keeps that. `live`
    leaves it to training (`--prefer.reference live`)."""
    pixels: bool = False
    """Keep the pixels of frames and images too, which training of tower and projector reads
    (`--prefer.train all`): 338 KB a frame of 336 x 336."""
    dtype: Dtype = "bfloat16"
    """Number format of the reference model. Best the one that is trained in."""
    prefill_chunk: int = 2048
    """Prompt tokens in one forward pass of the reference model."""
    on_error: Literal["skip", "stop"] = "skip"
    """What to do with a pair that cannot be used: leave it out and name it in the report, or
    stop."""
    seed: int = 0
    """Decides what is held out, and what `random` in a mixture takes."""
    part_pairs: int = 256
    """Pairs in one file of shards: the unit of parallel work and of resuming."""
    task_cpus: float = 1.0
    """CPUs that Ray reserves for one reference model."""
    task_gpus: float = 1.0
    """GPUs that Ray reserves for one reference model; 0 computes on CPUs."""
    max_tasks: int | None = None
    """Most reference models at a time; None means as many as fit into the cluster now."""

    def __post_init__(self) -> None:
        self.check_data()
        self.check_at_least(1, "max_tokens", "prefill_chunk", "part_pairs", "frames")
        self.check_at_least(0, "task_gpus")
