"""Questions in groups about one video or image, and the worker that asks them.

    records -> groups of trials -> outcomes by key

The engine keeps the prompt that it read last, and all prompts of a group begin with the same
video or image: its tokens are loaded and read once.

Shapes: F frames, Q visual tokens of a frame, S visual tokens of an image, D width of the language
model.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist

from longva_ray.data.images.chat import Item
from longva_ray.evaluate.ledger import TrialOutcome
from longva_ray.evaluate.questions.ask import ask
from longva_ray.evaluate.questions.records import QuestionRecord
from longva_ray.evaluate.subjects import Subject, load_subject
from longva_ray.files.digest import fingerprint_of
from longva_ray.settings.questions import QuestionsConfig
from longva_ray.shards.images import ImageSpec, ImageStore
from longva_ray.shards.schema import EncodingSpec
from longva_ray.shards.store import ShardStore


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class QuestionTrial:
    """A question about an encoded video or image."""

    record: QuestionRecord
    item_id: str
    frames: int | None = None
    """Most frames that are read of a video; None, as many as the settings say."""

    @property
    def key(self) -> str:
        """Name in the ledger. A question that is edited, or asked about something else, is another
        trial; where its file lies, and its other fields, do not matter."""
        record = self.record
        asked = (self.item_id, record.question, record.options, record.answer)
        among = "" if self.frames is None else f"-{self.frames}"
        return f"{record.id}-{fingerprint_of(*asked)}{among}"

    def among(self, count: int | None, num_frames: int | None) -> "QuestionTrial":
        """The question among at most `count` of a video's frames; the same one of an image."""
        frames = None if count is None or num_frames is None else min(count, num_frames)
        return dataclasses.replace(self, frames=frames)


def plan_groups(
    records: Sequence[QuestionRecord], ids: Mapping[Item, str]
) -> list[list[QuestionTrial]]:
    """Trials grouped by what they are about, in the order of the records.

    Args:
        ids: of each video and image, by how the records name it; questions about others are left
            out.
    """
    groups: dict[str, list[QuestionTrial]] = {}
    for record in records:
        item_id = ids.get(record.item)
        if item_id is not None:
            trial = QuestionTrial(record=record, item_id=item_id)
            groups.setdefault(item_id, []).append(trial)
    return list(groups.values())


def at_counts(
    group: Sequence[QuestionTrial], counts: Sequence[int | None], num_frames: int | None
) -> list[list[QuestionTrial]]:
    """A group about a video of `num_frames` frames, once for each count; once for all counts that
    are more than the video has. A group about an image, which has no frames, once."""
    groups = {}
    for count in counts:
        trials = [trial.among(count, num_frames) for trial in group]
        groups[trials[0].frames] = trials
    return list(groups.values())


class QuestionWorker:
    """Groups of trials -> outcomes; holds the model for the life of the worker."""

    def __init__(
        self,
        subject: Subject,
        config: QuestionsConfig,
        store: str,
        spec: EncodingSpec,
        image_spec: ImageSpec,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self._config = config
        self._videos, self._spec = ShardStore(store), spec
        self._images, self._image_spec = ImageStore(store), image_spec
        self.engine = load_subject(subject, config, group)

    def __call__(self, trials: Sequence[QuestionTrial]) -> dict[str, TrialOutcome]:
        ((kind, item_id, frames),) = {
            (trial.record.item.kind, trial.item_id, trial.frames) for trial in trials
        }
        tokens = self._video(item_id, frames) if kind == "video" else self._image(item_id)
        tokens = tokens.to(self.engine.device)
        outcomes = {}
        for trial in trials:
            started = time.perf_counter()
            outcome = ask(self.engine, trial.record, tokens, self._config)
            outcomes[trial.key] = outcome | {"seconds": time.perf_counter() - started}
        return outcomes

    def _video(self, video_id: str, frames: int | None) -> torch.Tensor:
        """Tokens FQD."""
        video = self._videos.open(video_id, self._spec)
        return video.tokens(video.evenly(self._config.frames if frames is None else frames))

    def _image(self, image_id: str) -> torch.Tensor:
        """Tokens SD."""
        return self._images.tokens(image_id, self._image_spec)
