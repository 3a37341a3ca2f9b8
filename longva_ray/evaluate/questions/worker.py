"""Questions in groups of one video, and the worker that asks them.

    records -> groups of trials -> outcomes by key

The engine keeps the prompt that it read last, and all prompts of a group begin with the same video:
its tokens are loaded and read once.

Shapes: F frames, Q visual tokens of a frame, D width of the language model.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist

from longva_ray.evaluate.ledger import TrialOutcome
from longva_ray.evaluate.questions.ask import ask
from longva_ray.evaluate.questions.records import QuestionRecord
from longva_ray.evaluate.subjects import Subject, load_subject
from longva_ray.files.digest import fingerprint_of
from longva_ray.settings.questions import QuestionsConfig
from longva_ray.shards.schema import EncodingSpec
from longva_ray.shards.store import ShardStore


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class QuestionTrial:
    """A question about an encoded video."""

    record: QuestionRecord
    video_id: str

    @property
    def key(self) -> str:
        """Name in the ledger. A question that is edited, or asked about another video, is another
        trial; where its file lies, and its other fields, do not matter."""
        record = self.record
        asked = (self.video_id, record.question, record.options, record.answer)
        return f"{record.id}-{fingerprint_of(*asked)}"


def plan_groups(
    records: Sequence[QuestionRecord], video_ids: Mapping[str, str]
) -> list[list[QuestionTrial]]:
    """Trials grouped by video, in the order of the records.

    Args:
        video_ids: id of each video by how the records name it; questions about others are left out.
    """
    groups: dict[str, list[QuestionTrial]] = {}
    for record in records:
        video_id = video_ids.get(record.video)
        if video_id is not None:
            trial = QuestionTrial(record=record, video_id=video_id)
            groups.setdefault(video_id, []).append(trial)
    return list(groups.values())


class QuestionWorker:
    """Groups of trials -> outcomes; holds the model for the life of the worker."""

    def __init__(
        self,
        subject: Subject,
        config: QuestionsConfig,
        store: str,
        spec: EncodingSpec,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self._config = config
        self._store, self._spec = ShardStore(store), spec
        self.engine = load_subject(subject, config, group)

    def __call__(self, trials: Sequence[QuestionTrial]) -> dict[str, TrialOutcome]:
        (video_id,) = {trial.video_id for trial in trials}
        tokens_FQD = self._tokens(video_id)
        outcomes = {}
        for trial in trials:
            started = time.perf_counter()
            outcome = ask(self.engine, trial.record, tokens_FQD, self._config)
            outcomes[trial.key] = outcome | {"seconds": time.perf_counter() - started}
        return outcomes

    def _tokens(self, video_id: str) -> torch.Tensor:
        video = self._store.open(video_id, self._spec)
        return video.tokens(video.evenly(self._config.frames)).to(self.engine.device)
