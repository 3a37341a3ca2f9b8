"""Questions to a running server, in place of a model that is loaded for them.

    questions, a server -> videos and images identified -> groups -> HTTP -> ledger -> answers

A video is named by the URL of its file, which the server must be allowed to read, or by its id; an
image is sent. What is asked, and how an answer is decided, is the same as in process. No Ray runs
here: the server's machines do the work, and this process waits for it.
"""

import base64
import dataclasses
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from longva_ray.data.images.chat import Item
from longva_ray.evaluate.ledger import Ledger, TrialOutcome
from longva_ray.evaluate.questions.answers import (
    ModelAnswers,
    Plan,
    check_any,
    errors_by_question,
    not_asked,
)
from longva_ray.evaluate.questions.ask import decide, prompt_text
from longva_ray.evaluate.questions.records import QuestionRecord
from longva_ray.evaluate.questions.worker import QuestionTrial
from longva_ray.evaluate.server import RefusedQuestion, ServedModel, Server
from longva_ray.evaluate.subjects import Subject
from longva_ray.files.digest import fingerprint_of
from longva_ray.files.places import is_uri, local_file, read_file
from longva_ray.progress import Progress
from longva_ray.settings.questions import QuestionsConfig
from longva_ray.shards.images import image_id_of
from longva_ray.shards.schema import hash_video, is_video_id

VIDEOS_AT_A_TIME = 4
"""Where the settings do not say: as many questions as a server works on at a time."""


def ask_server(
    subject: Subject, records: Sequence[QuestionRecord], config: QuestionsConfig, out: Path
) -> ModelAnswers:
    """Ask the server at `subject.path` every question; goes on in the ledger that `out` has.

    Raises ValueError when no server answers, or nothing can be asked.
    """
    threads = ThreadPoolExecutor(config.max_workers or VIDEOS_AT_A_TIME)
    with Server(subject.path) as server:
        try:
            model = server.model()
            ids, unreadable = _identify(records, threads)
            check_any(ids, unreadable)
            plan = Plan(
                records=records,
                ids=ids,
                # The server knows how many a video has, and reads no more.
                num_frames={ids[item]: sys.maxsize for item in ids if item.kind == "video"},
                counts=config.frame_counts or (None,),
            )
            ledger = Ledger(out / "ledgers", _fingerprint(model, config))
            asker = _Asker(server=server, model=model, config=config)
            groups = plan.groups()
            refused = _ask_all(f"questions {subject.name}", groups, asker, ledger, threads)
        finally:
            server.stop()
            threads.shutdown(cancel_futures=True)
    errors = errors_by_question(records, unreadable) | refused
    if len(errors) == len(records):
        raise ValueError(
            f"{subject.path} answers none of {len(records)} question(s); to the first it says: "
            f"{errors[records[0].id]}"
        )
    trials = [trial for group in groups for trial in group if trial.key in ledger]
    return ModelAnswers(
        described={"name": subject.name, "path": subject.path, **dataclasses.asdict(model)},
        by_count=plan.answered({trial.key: ledger[trial.key] for trial in trials}, without=errors),
        not_asked=not_asked(records, errors),
    )


def _fingerprint(model: ServedModel, config: QuestionsConfig) -> str:
    """Of all that decides an outcome: the server's weights, shards and numbers, and what is asked.
    `served` keeps these answers apart from those of the same model in process."""
    return fingerprint_of(
        *("served", model.fingerprint, model.encoding, model.dtype, model.prefill_chunk),
        *(config.decide, config.frames, config.max_new_tokens),
    )


def _identify(
    records: Sequence[QuestionRecord], threads: ThreadPoolExecutor
) -> tuple[dict[Item, str], dict[Item, str]]:
    """(ids of videos and images by how the questions name them, errors of those without)."""
    items = list(dict.fromkeys(record.item for record in records))
    ids: dict[Item, str] = {}
    errors: dict[Item, str] = {}
    for item, (found, error) in zip(items, threads.map(_id_of, items), strict=True):
        if error:
            errors[item] = error
        else:
            ids[item] = found
    return ids, errors


def _id_of(item: Item) -> tuple[str, str]:
    """(id, error), one of them empty."""
    try:
        if item.kind == "image":
            return image_id_of(read_file(item.place)), ""
        if is_video_id(item.place):
            return item.place, ""
        with local_file(item.place) as file:
            return hash_video(file), ""
    except OSError as error:
        return "", f"it cannot be read: {error.strerror or error}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Asker:
    """Trials about one video or image -> outcomes by key, and errors by the id of a question."""

    server: Server
    model: ServedModel
    config: QuestionsConfig

    def __call__(
        self, trials: Sequence[QuestionTrial]
    ) -> tuple[dict[str, TrialOutcome], dict[str, str]]:
        outcomes, refused = {}, {}
        # By its file first: that encodes a video which another question names by its id.
        for trial in sorted(trials, key=lambda trial: trial.record.is_encoded):
            started = time.perf_counter()
            try:
                outcome = self._ask(trial)
            except RefusedQuestion as error:
                refused[trial.record.id] = str(error)
            else:
                outcomes[trial.key] = outcome | {"seconds": time.perf_counter() - started}
        return outcomes, refused

    def _ask(self, trial: QuestionTrial) -> TrialOutcome:
        record, config = trial.record, self.config
        text = {"type": "text", "text": prompt_text(record, config.decide)}
        messages = [{"role": "user", "content": [_part(trial), text]}]
        frames = config.frames if trial.frames is None else trial.frames
        about = (self.model.id, messages, frames)

        def choose(candidates: Sequence[str]) -> tuple[int, list[float]]:
            scored = self.server.score(*about, candidates)
            return scored["best"], [each["logprob"] for each in scored["scores"]]

        def answer() -> str:
            return self.server.answer(*about, config.max_new_tokens)

        return decide(record, config.decide, choose, answer)


def _part(trial: QuestionTrial) -> dict[str, Any]:
    """The video or image in a message."""
    place = trial.record.item.place
    if trial.record.item.kind == "image":
        # The server goes by the content, whatever kind a URL claims.
        content = base64.b64encode(read_file(place)).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/*;base64,{content}"}}
    return {"type": "video_url", "video_url": {"url": _video_url(place, trial.item_id)}}


def _video_url(place: str, video_id: str) -> str:
    """A file by its URL; what lies elsewhere by its id, since a server fetches nothing."""
    if place.startswith("file:"):
        return place
    return video_id if is_video_id(place) or is_uri(place) else Path(place).as_uri()


def _ask_all(
    title: str,
    groups: Sequence[Sequence[QuestionTrial]],
    asker: _Asker,
    ledger: Ledger,
    threads: ThreadPoolExecutor,
) -> dict[str, str]:
    """Record every outcome that the ledger lacks; errors by the id of the question."""
    pending = [[trial for trial in group if trial.key not in ledger] for group in groups]
    running = [threads.submit(asker, group) for group in pending if group]
    refused: dict[str, str] = {}
    total, done = sum(map(len, pending)), 0
    with Progress(title, unit="questions", total=total, uneven=True) as progress:
        for finished in as_completed(running):
            outcomes, errors = finished.result()
            ledger.record(outcomes)
            refused |= errors
            done += len(outcomes) + len(errors)
            progress.reach(done, "")
    return refused
