"""The needle test on video: one frame hidden among thousands, asked about at the end.

    <video> frame ... frame needle frame ... frame | question -> answer

Section 4 of the paper: a needle image is put as an extra frame before frame int(depth x frames) of
a haystack of encoded frames, and an answer is right when every teacher-forced likeliest token of it
is. The outcome also has the model's free answer. Two more kinds of trials say what a score can be:
the ceiling is every needle alone, as a video of one frame, and the guess floor is the same
questions about the same haystacks without the needle.

Shapes: F frames, K needles, Q visual tokens of a frame, D width of the language model.
"""

import dataclasses
import re
import time
from collections.abc import Sequence

import torch
import torch.distributed as dist

from longva_ray.answer.engine import Question
from longva_ray.evaluate.ledger import TrialOutcome
from longva_ray.evaluate.subjects import Subject, load_subject
from longva_ray.evaluate.verdicts import AFTER_NUMBER, BEFORE_NUMBER, judge
from longva_ray.settings.needles import VniahConfig
from longva_ray.shards.schema import EncodingSpec
from longva_ray.shards.store import ShardStore


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VniahTrial:
    """One question of the grid."""

    num_frames: int
    """Frames of the haystack, the needle not counted; 0 for the ceiling, the needle alone."""
    depth: float | None
    """Where the needle lies: 0 the beginning, 1 the end; None for the guess floor, without it."""
    needle: int

    @property
    def place(self) -> int:
        """Frames before the needle; all of them when there is none."""
        return self.num_frames if self.depth is None else int(self.depth * self.num_frames)

    @property
    def key(self) -> str:
        """Name in the ledger."""
        depth = "floor" if self.depth is None else f"{self.depth:.4f}"
        return f"f{self.num_frames}-{depth}-k{self.needle}"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EncodedHaystack:
    """Where the haystack's visual tokens are: videos of the store, one after the other."""

    store: str
    video_ids: tuple[str, ...]
    spec: EncodingSpec

    def tokens(self, num_frames: int) -> torch.Tensor:
        """The first frames' tokens FQD.

        Raises ValueError when there are fewer."""
        store = ShardStore(self.store)
        videos = [store.open(video, self.spec) for video in self.video_ids]
        have = sum(video.num_frames for video in videos)
        if have < num_frames:
            raise ValueError(
                f"the haystack has {have} frames at {self.spec.sampling}, but the grid asks for "
                f"{num_frames}; give a longer video, several, or fewer frames"
            )
        parts = []
        for video in videos:
            take = min(video.num_frames, num_frames)
            num_frames -= take
            parts += list(video.parts(0, take))
        return torch.cat(parts)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EncodedNeedles:
    """The needles as the language model meets them."""

    tokens_KQD: torch.Tensor
    questions: tuple[str, ...]
    answers: tuple[str, ...]


def plan_alone(num_needles: int) -> list[VniahTrial]:
    """Every needle without a haystack; one group."""
    return [VniahTrial(num_frames=0, depth=0.0, needle=needle) for needle in range(num_needles)]


def plan_groups(config: VniahConfig, num_needles: int) -> list[list[VniahTrial]]:
    """Trials in groups that share everything up to and with the needle, from the deepest needle to
    the shallowest. So the haystack is read once, and what follows a needle once for each place."""
    depths = [*config.depths, *([None] if config.floor else [])]
    groups: dict[tuple[int, bool, int], list[VniahTrial]] = {}
    for num_frames in sorted(config.frames, reverse=True):
        for depth in depths:
            for needle in range(num_needles):
                trial = VniahTrial(num_frames=num_frames, depth=depth, needle=needle)
                # Without needle the questions follow the same frames; they are one group.
                group = (-trial.place, depth is None, -1 if depth is None else needle)
                groups.setdefault(group, []).append(trial)
    return [groups[group] for group in sorted(groups)]


def says(text: str, answer: str) -> bool:
    """Whether a free answer gives the right one: as whole words and numbers, in any case, anywhere;
    a single character only at the beginning, since letters of a choice are also words of a
    sentence."""
    before = BEFORE_NUMBER if answer[:1].isdigit() else ""
    after = AFTER_NUMBER if answer[-1:].isdigit() else ""
    whole = rf"(?<!\w){before}{re.escape(answer)}{after}(?!\w)"
    found = re.search(whole, text, re.IGNORECASE)
    if found is None or len(answer) > 1:
        return found is not None
    return not re.search(r"\w", text[: found.start()])


class VniahWorker:
    """Trials -> outcomes; holds the model and the haystack for the life of the worker."""

    def __init__(
        self,
        subject: Subject,
        config: VniahConfig,
        haystack: EncodedHaystack,
        needles: EncodedNeedles,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self._config = config
        self._engine = load_subject(subject, config, group)
        device = self._engine.device
        self._haystack_FQD = haystack.tokens(max(config.frames)).to(device)
        self._needles_KQD = needles.tokens_KQD.to(device)
        self._needles = needles

    def __call__(self, trials: Sequence[VniahTrial]) -> dict[str, TrialOutcome]:
        return {trial.key: self._ask(trial) for trial in trials}

    def _ask(self, trial: VniahTrial) -> TrialOutcome:
        started = time.perf_counter()
        answer = self._needles.answers[trial.needle]
        judged = judge(
            self._engine,
            self._engine.read(self._question(trial)),
            answer,
            self._engine.answer_ids(answer),
            self._config,
            gives=lambda text: says(text, answer),
        )
        return dataclasses.asdict(trial) | judged | {"seconds": time.perf_counter() - started}

    def _question(self, trial: VniahTrial) -> Question:
        """The needle's question about the haystack with the needle in its place."""
        frames = [self._haystack_FQD[: trial.place]]
        if trial.depth is not None:
            needle_1QD = self._needles_KQD[trial.needle : trial.needle + 1]
            frames += [needle_1QD, self._haystack_FQD[trial.place : trial.num_frames]]
        text = self._needles.questions[trial.needle]
        content = [{"type": "video"}, {"type": "text", "text": text}]
        return Question(messages=[{"role": "user", "content": content}], items=[torch.cat(frames)])
