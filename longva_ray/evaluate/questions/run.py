"""Questions in bulk over a cluster: models and a file of questions in, a report with a figure out.

    videos, images -> shards (Ray Data) -> subjects x groups -> <out>/questions.json, .png

A model may also be a running server, which is asked over HTTP (`served`). Of the others, each
model's own encoder reads each video and image once; what the store already has is not encoded
again. One that cannot be read is named in the report, its questions count neither as right nor as
wrong, and the others are asked.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from longva_ray.data.images.chat import Item
from longva_ray.evaluate.experiment import (
    deciding,
    fingerprint_subjects,
    run_trials,
    try_models,
)
from longva_ray.evaluate.questions.answers import (
    ModelAnswers,
    Plan,
    check_any,
    errors_by_question,
    not_asked,
)
from longva_ray.evaluate.questions.figure import draw_questions
from longva_ray.evaluate.questions.frames import draw_frames
from longva_ray.evaluate.questions.records import QuestionRecord, check_fields
from longva_ray.evaluate.questions.report import score, summarise
from longva_ray.evaluate.questions.served import ask_server
from longva_ray.evaluate.questions.worker import QuestionWorker
from longva_ray.evaluate.report import ModelResult, describe_subject, versions, write_report
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
    here = [subject for subject in subjects if not subject.is_served]
    named = any(subject.try_bases for subject in subjects)
    for subject in subjects:
        is_last = config.rope_bases and not named and subject is subjects[-1]
        if subject.is_served and (subject.try_bases or is_last):
            raise ValueError(
                f"{subject.name} is a server, whose RoPE base cannot be raised from here; name the "
                "checkpoint, as training-free=PATH"
            )
    for subject in here:
        if not is_longva(subject.path):
            raise ValueError(f"{subject.path} is no LongVA checkpoint, so it cannot see")
    check_fields(records, by)
    num_open = sum(not record.options for record in records)
    if here and num_open and config.ring_size > 1:
        raise ValueError(
            f"{num_open} open question(s), but over a ring of {config.ring_size} answers are "
            "scored, not generated; set --questions.ring-size 1, or give them options"
        )
    out.mkdir(parents=True, exist_ok=True)
    weights = fingerprint_subjects(here) if here else {}
    seen = {
        path: _encode(path, weights[path], records, store=store, config=encode) for path in weights
    }

    def scores(model: ModelAnswers) -> dict[str, Any]:
        if not config.frame_counts:
            return summarise(model.by_count[None], by)
        counts = config.frame_counts
        return {"by_frames": [{"frames": n} | summarise(model.by_count[n], by) for n in counts]}

    def test(subject: Subject) -> ModelResult:
        if subject.is_served:
            model = ask_server(subject, records, config, out)
        else:
            model = _ask(subject, records, seen[subject.path], config, out)
        return {**model.described, **scores(model), "not_asked": model.not_asked}

    models, tried = try_models(test, subjects, config.rope_bases, raise_base_of="last", score=score)
    report = {
        "test": "questions",
        "settings": dataclasses.asdict(config),
        "encode": dataclasses.asdict(encode),
        "by": list(by),
        "versions": versions(),
        "models": models,
        "training_free": tried,
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
    check_any(ids, errors)
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
) -> ModelAnswers:
    """Every question that could be asked, by workers of the cluster."""
    plan = Plan(
        records=records,
        ids=seen.ids,
        num_frames=seen.num_frames,
        counts=config.frame_counts or (None,),
    )
    swept = run_trials(
        f"questions {subject.name}",
        plan.groups(),
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
    return ModelAnswers(
        described=describe_subject(subject, seen.weights)
        | {"encoder_fingerprint": seen.spec.encoder_fingerprint},
        by_count=plan.answered(swept.outcomes),
        not_asked=not_asked(records, errors_by_question(records, seen.errors)),
    )
