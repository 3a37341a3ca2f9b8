"""Settings of the needle tests, on text and on video."""

import dataclasses
from typing import ClassVar, Literal

from longva_ray.settings.encoding import EncodeConfig
from longva_ray.settings.sweep import SweepConfig
from longva_ray.video.fitting import Fitting, check_fitting


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NeedleConfig(SweepConfig):
    """How every needle test is scored."""

    generate: bool = True
    """Let the model also answer freely, besides the paper's teacher-forced rule."""
    extra_tokens: int = 4
    """How many tokens longer than the right answer a free one may be."""
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NiahConfig(NeedleConfig):
    """The needle-in-a-haystack test on text (appendix A of the paper)."""

    stage: ClassVar[str] = "niah"
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
    """The city whose number is asked for (appendix A); None draws one of `cities` for each
    prompt."""
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
    """What comes before the haystack (appendix A)."""
    needle: str = "\nThe special magic {city} number is: {number}.\n"
    question: str = (
        "</book>.\n Based on the content of the book, Question: What is the special magic {city} "
        "number? Answer: The special magic {city} number is:"
    )
    """What comes after the haystack; the answer continues it."""
    answer: str = " {number}"
    essays: str | None = None
    """Folder of .txt files that make up the haystack, in the order of their names; None takes those
    of `world`."""
    world: Literal["english", "tiny"] = "english"
    """What the haystack is where no essays are given. english: the essays in this package. tiny:
    sentences of the world of longva-tiny, which knows no other words, drawn from the seed."""
    rope_bases: tuple[float, ...] = ()
    """RoPE bases to try without any training, on the model that is named training-free, else on the
    first; the best by score is reported. The paper tries 3e6 1e7 3e7 1e8 3e8 1e9 (section 5.1)."""
    perplexity_windows: int = 4
    """Windows over which perplexity by position is averaged. A window has the longest length, or
    that of all essays where they are shorter. 0 leaves the plot out."""

    def __post_init__(self) -> None:
        SweepConfig.__post_init__(self)
        if not self.lengths or not self.depths or not self.distractors or self.samples < 1:
            names = ("lengths", "depths", "distractors", "samples")
            raise ValueError(f"{', '.join(map(self.option, names))} must not be empty or 0")
        if any(not 0 <= depth <= 1 for depth in self.depths):
            raise ValueError(f"{self.option('depths')} must lie in [0, 1], got {self.depths}")
        if min(self.distractors) < 0 or max(self.distractors) >= len(self.cities):
            raise ValueError(
                f"{self.option('distractors')} are {self.distractors} with {len(self.cities)} "
                "cities; each distractor is about another city, so give more cities by "
                f"{self.option('cities')}"
            )
        if self.city is not None and self.city not in self.cities:
            raise ValueError(
                f"{self.option('city')} {self.city!r} is not among {self.option('cities')} "
                f"{self.cities}; add it there"
            )
        if not 1 <= self.digits <= 18:
            raise ValueError(f"{self.option('digits')} must lie in [1, 18], got {self.digits}")
        for name in ("needle", "answer"):
            if "{number}" not in getattr(self, name):
                raise ValueError(
                    f"{self.option(name)} must contain {{number}}, got {getattr(self, name)!r}"
                )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VniahConfig(NeedleConfig):
    """The needle-in-a-haystack test on video (section 4 of the paper)."""

    stage: ClassVar[str] = "vniah"
    frames: tuple[int, ...] = tuple(range(200, 3001, 200))
    """Frames of the haystack (scripts: 200 to 3000, step 200)."""
    depths: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Where the needle lies: before frame int(depth x frames) (scripts: step .2)."""
    needles: str | None = None
    """Dataset of needles: a .json or .parquet file, or a folder of a dataset, with the columns
    image, question and answer, as lmms-lab/v_niah_needles has; None draws those of `world`."""
    world: Literal["cards", "tiny"] = "cards"
    """What is drawn where no needles or no videos are given. cards: cards with numbers, among
    ever-changing scenes. tiny: the world of longva-tiny, the only one that it can read."""
    fitting: Fitting | None = None
    """How frames of the haystack and needles are put on the tower's square, in place of
    `--encode.fitting`; None, as that says. The released test has `letterbox_mean`, though its chat
    crops."""
    floor: bool = True
    """Ask every question once more without its needle, to see what can be guessed."""
    rope_bases: tuple[float, ...] = ()
    """RoPE bases to try without any training, on the model that is named training-free, else on the
    last; the best by score is reported. The paper tries 3e6 1e7 3e7 1e8 3e8 1e9 (section 5.1)."""
    compare_plain: bool = False
    """Run everything again without prefix reuse: reports the seconds of both and asserts that no
    decision differs."""
    extra_tokens: int = 16

    def __post_init__(self) -> None:
        SweepConfig.__post_init__(self)
        if not self.frames or not self.depths or min(self.frames) < 1:
            raise ValueError(
                f"{self.option('frames')} and {self.option('depths')} must not be empty, and "
                f"frames at least 1; got {self.frames} and {self.depths}"
            )
        if any(not 0 <= depth <= 1 for depth in self.depths):
            raise ValueError(f"{self.option('depths')} must lie in [0, 1], got {self.depths}")
        check_fitting(self.option("fitting"), self.fitting)
        if self.compare_plain and not (self.reuse_prefix and self.ring_size == 1):
            raise ValueError(
                f"{self.option('compare_plain')} compares with and without reuse of prefixes; it "
                f"wants {self.option('reuse_prefix')} and {self.option('ring_size')} 1"
            )

    def encoding(self, encode: EncodeConfig) -> EncodeConfig:
        """How haystack and needles are encoded; ValueError if both settings name a fitting."""
        if self.fitting is None:
            return encode
        if encode.fitting not in (None, self.fitting):
            raise ValueError(
                f"--encode.fitting is {encode.fitting}, but this test has --vniah.fitting "
                f"{self.fitting}; give --vniah.fitting {encode.fitting}"
            )
        return dataclasses.replace(encode, fitting=self.fitting)
