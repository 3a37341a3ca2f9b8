"""Questions in bulk over a cluster: models and a file of questions in, a report with a figure out.

    videos, images -> shards (Ray Data) -> subjects x groups -> <out>/questions.json, .png

Each model's own encoder reads each video and image once; what the store already has is not encoded
again. One that cannot be read is named in the report, its questions count neither as right nor as
wrong, and the others are asked.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from longva_ray.data.images.chat import Item
from longva_ray.evaluate.experiment import deciding, fingerprint_subjects, run_trials
from longva_ray.evaluate.questions.figure import draw_questions
from longva_ray.evaluate.questions.frames import draw_frames
from longva_ray.evaluate.questions.records import QuestionRecord, check_fields
from longva_ray.evaluate.questions.report import Answered, summarise
from longva_ray.evaluate.questions.worker import (
    QuestionTrial,
    QuestionWorker,
    at_counts,
    plan_groups,
)
from longva_ray.evaluate.report import describe_subject, versions, write_report
from longva_ray.evaluate.subjects import Subject
from longva_ray.lm.base_models import is_longva
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.settings.questions import QuestionsConfig
from longva_ray.shards.image_pipeline import encode_images
from longva_ray.shards.images import ImageSpec, image_spec
from longva_ray.shards.pipeline import describe_on_worker, encode_videos
from longva_ray.shards.schema import EncodingSpec, ShardError
from longva_ray.shards.store import ShardStore

DECIDING_QUESTIONS = (
    *("dtype", "ring_size", "prefill_chunk"),
    *("decide", "frames", "max_new_tokens"),
)
"""Settings that may change an outcome."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """What one checkpoint's encoder made of videos and images, by how the questions name them."""

    weights: str
    """Fingerprint of the checkpoint."""
    store: str
    spec: EncodingSpec
    image_spec: ImageSpec
    ids: Mapping[Item, str]
    num_frames: Mapping[str, int]
    """Encoded frames of each video, by its id."""
    errors: Mapping[Item, str]


def run_questions(
    subjects: Sequence[Subject],
    records: Sequence[QuestionRecord],
    *,
    by: Sequence[str],
    store: str,
    config: QuestionsConfig,
    encode: EncodeConfig,
    out: Path,
) -> dict[str, Any]:
    """Ask every subject every question, write report and figure into `out`, return the report.

    `store` is the folder or URI of the shards, as every node reaches it. Goes on where an earlier
    run into the same folder stopped. Raises ValueError for a model that cannot see, a field that no
    question has, or when nothing can be read.
    """
    for subject in subjects:
        if not is_longva(subject.path):
            raise ValueError(f"{subject.path} is no LongVA checkpoint, so it cannot see")
    check_fields(records, by)
    num_open = sum(not record.options for record in records)
    if num_open and config.ring_size > 1:
        raise ValueError(
            f"{num_open} open question(s), but over a ring of {config.ring_size} answers are "
            "scored, not generated; set --questions.ring-size 1, or give them options"
        )
    out.mkdir(parents=True, exist_ok=True)
    weights = fingerprint_subjects(subjects)
    seen = {
        path: _encode(path, weights[path], records, store=store, config=encode) for path in weights
    }
    answers = {
        subject.name: _ask(subject, records, seen[subject.path], config, out)
        for subject in subjects
    }

    def scores(subject: Subject) -> dict[str, Any]:
        found = answers[subject.name]
        if not config.frame_counts:
            return summarise(found[None], by)
        counts = config.frame_counts
        return {"by_frames": [{"frames": n} | summarise(found[n], by) for n in counts]}

    report = {
        "test": "questions",
        "settings": dataclasses.asdict(config),
        "encode": dataclasses.asdict(encode),
        "by": list(by),
        "versions": versions(),
        "models": [
            describe_subject(subject, weights[subject.path])
            | {"encoder_fingerprint": seen[subject.path].spec.encoder_fingerprint}
            | scores(subject)
            | {"not_asked": _not_asked(records, seen[subject.path])}
            for subject in subjects
        ],
    }
    write_report(report, out)
    draw = draw_frames if config.frame_counts else draw_questions
    draw(report, out / "questions.png")
    return report


def _encode(
    checkpoint: str,
    weights: str,
    records: Sequence[QuestionRecord],
    *,
    store: str,
    config: EncodeConfig,
) -> _Seen:
    shards, items = ShardStore(store), dict.fromkeys(record.item for record in records)
    named = dict.fromkeys(record.item for record in records if record.is_encoded)
    videos = [item.place for item in items if item.kind == "video" and item not in named]
    images = [item.place for item in items if item.kind == "image"]
    ids: dict[Item, str] = {}
    errors: dict[Item, str] = {}
    num_frames: dict[str, int] = {}
    if videos:
        encoded = encode_videos(videos, store=shards, checkpoint=checkpoint, config=config)
        spec = encoded.spec
        num_frames = {each.video_id: each.num_frames for each in encoded.videos if not each.error}
        for video in encoded.videos:
            found = errors if video.error else ids
            found[Item(kind="video", place=video.path)] = video.error or video.video_id
    else:
        spec = describe_on_worker(checkpoint, config)
    for image in encode_images(images, store=store, checkpoint=checkpoint, config=config):
        found = errors if image.error else ids
        found[Item(kind="image", place=image.path)] = image.error or image.image_id
    for item in named:
        try:
            num_frames[item.place] = shards.open(item.place, spec).num_frames
        except (KeyError, ShardError) as error:
            errors[item] = str(error.args[0])
        else:
            ids[item] = item.place
    if not ids:
        first, why = next(iter(errors.items()))
        raise ValueError(
            f"none of {len(errors)} video(s) and image(s) can be read; the first is {first.place}: "
            f"{why}"
        )
    return _Seen(
        weights=weights,
        store=store,
        spec=spec,
        image_spec=image_spec(checkpoint, spec.encoder_fingerprint, config),
        ids=ids,
        num_frames=num_frames,
        errors=errors,
    )


def _ask(
    subject: Subject,
    records: Sequence[QuestionRecord],
    seen: _Seen,
    config: QuestionsConfig,
    out: Path,
) -> dict[int | None, list[Answered]]:
    """Every question that could be asked, in the order of the file, for each number of frames; None
    is the only one where there are not several."""
    counts = config.frame_counts or (None,)
    plain = plan_groups(records, seen.ids)
    groups = [
        group
        for each in plain
        for group in at_counts(each, counts, seen.num_frames.get(each[0].item_id))
    ]
    swept = run_trials(
        f"questions {subject.name}",
        groups,
        QuestionWorker,
        {
            **{"subject": subject, "config": config, "store": seen.store},
            **{"spec": seen.spec, "image_spec": seen.image_spec},
        },
        config=config,
        out=out,
        decided_by=(
            *(seen.weights, subject.rope_base, seen.spec.key),
            deciding(config, DECIDING_QUESTIONS),
        ),
    )
    place = {record.id: number for number, record in enumerate(records)}
    trials = [trial for group in plain for trial in group]
    trials.sort(key=lambda trial: place[trial.record.id])

    def answered(trial: QuestionTrial, count: int | None) -> Answered:
        key = trial.among(count, seen.num_frames.get(trial.item_id)).key
        return Answered(record=trial.record, item_id=trial.item_id, outcome=swept.outcomes[key])

    return {count: [answered(trial, count) for trial in trials] for count in counts}


def _not_asked(records: Sequence[QuestionRecord], seen: _Seen) -> list[dict[str, Any]]:
    return [
        {
            item.kind: item.place,
            "error": error,
            "questions": [record.id for record in records if record.item == item],
        }
        for item, error in seen.errors.items()
    ]
