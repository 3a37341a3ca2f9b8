"""Settings of questions in bulk."""

import dataclasses
from typing import ClassVar, Literal

from longva_ray.settings.sweep import SweepConfig

Decide = Literal["letter", "text", "generate"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class QuestionsConfig(SweepConfig):
    """How questions about videos and images are asked, and how an answer is decided."""

    stage: ClassVar[str] = "questions"
    decide: Decide = "letter"
    """How an option is chosen. letter: the options stand in the prompt, and the likeliest letter
    is chosen. generate: the same prompt, and the letter is read from a free answer. text: the
    question alone is the prompt, and the option whose text is the likeliest answer is chosen. An
    open question is always answered freely."""
    frames: int | None = None
    """Read at most so many frames of a video, spread evenly over the encoded ones; None, all."""
    frame_counts: tuple[int, ...] = ()
    """Ask every question with each of these numbers of frames (Tables 4 and 6 of the paper: 8 to
    384). The videos are encoded once; table and figure show accuracy by number of frames."""
    rope_bases: tuple[float, ...] = ()
    """RoPE bases to try without any training, on the model that is named training-free, else on the
    last; the best by score is reported. The paper tries 3e6 1e7 3e7 1e8 3e8 1e9 (section 5.1)."""
    max_new_tokens: int = 16
    """Longest free answer; lmms-eval takes as many for Video-MME."""

    def __post_init__(self) -> None:
        SweepConfig.__post_init__(self)
        self.check_at_least(1, "frames", "max_new_tokens")
        if self.frame_counts and self.frames is not None:
            raise ValueError(
                "give --questions.frames for one number of frames, or --questions.frame-counts for "
                "several"
            )
        if any(count < 1 for count in self.frame_counts) or list(self.frame_counts) != sorted(
            set(self.frame_counts)
        ):
            raise ValueError(
                f"{self.option('frame_counts')} must be at least 1 and increase, got "
                f"{list(self.frame_counts)}"
            )
        if self.decide == "generate" and self.ring_size > 1:
            raise ValueError(
                f"over a ring of {self.ring_size} answers are scored, not generated; decide by "
                "letter or text, or set --questions.ring-size 1"
            )
