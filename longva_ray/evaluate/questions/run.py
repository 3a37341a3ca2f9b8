"""Questions in bulk over a cluster: models and a file of questions in, a report with a figure out.

    videos -> shards (Ray Data) -> subjects x groups of questions -> <out>/questions.json, .png

Each model's own encoder reads each video once; what the store already has is not encoded again. A
video that cannot be read is named in the report, its questions count neither as right nor as wrong,
and the others are asked.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from longva_ray.evaluate.experiment import deciding, fingerprint_subjects, run_trials
from longva_ray.evaluate.questions.figure import draw_questions
from longva_ray.evaluate.questions.records import QuestionRecord, check_fields
from longva_ray.evaluate.questions.report import Answered, summarise
from longva_ray.evaluate.questions.worker import QuestionWorker, plan_groups
from longva_ray.evaluate.report import describe_subject, versions, write_report
from longva_ray.evaluate.subjects import Subject
from longva_ray.lm.base_models import is_longva
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.settings.questions import QuestionsConfig
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
    """What one checkpoint's encoder made of the videos, by how the questions name them."""

    weights: str
    """Fingerprint of the checkpoint."""
    store: str
    spec: EncodingSpec
    video_ids: Mapping[str, str]
    errors: Mapping[str, str]


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
    question has, or when no video can be read.
    """
    for subject in subjects:
        if not is_longva(subject.path):
            raise ValueError(f"{subject.path} is no LongVA checkpoint, so it cannot see a video")
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
    report = {
        "test": "questions",
        "settings": dataclasses.asdict(config),
        "encode": dataclasses.asdict(encode),
        "by": list(by),
        "versions": versions(),
        "models": [
            describe_subject(subject, weights[subject.path])
            | {"encoder_fingerprint": seen[subject.path].spec.encoder_fingerprint}
            | summarise(answers[subject.name], by)
            | {"not_asked": _not_asked(records, seen[subject.path])}
            for subject in subjects
        ],
    }
    write_report(report, out)
    draw_questions(report, out / "questions.png")
    return report


def _encode(
    checkpoint: str,
    weights: str,
    records: Sequence[QuestionRecord],
    *,
    store: str,
    config: EncodeConfig,
) -> _Seen:
    shards = ShardStore(store)
    files = list(dict.fromkeys(record.video for record in records if not record.is_encoded))
    video_ids, errors = {}, {}
    if files:
        encoded = encode_videos(files, store=shards, checkpoint=checkpoint, config=config)
        spec = encoded.spec
        video_ids = {video.path: video.video_id for video in encoded.videos if not video.error}
        errors = {video.path: video.error for video in encoded.failed}
    else:
        spec = describe_on_worker(checkpoint, config)
    for video_id in dict.fromkeys(record.video for record in records if record.is_encoded):
        try:
            shards.open(video_id, spec)
        except (KeyError, ShardError) as error:
            errors[video_id] = str(error.args[0])
        else:
            video_ids[video_id] = video_id
    if not video_ids:
        first, why = next(iter(errors.items()))
        raise ValueError(f"none of {len(errors)} video(s) can be read; the first is {first}: {why}")
    return _Seen(weights=weights, store=store, spec=spec, video_ids=video_ids, errors=errors)


def _ask(
    subject: Subject,
    records: Sequence[QuestionRecord],
    seen: _Seen,
    config: QuestionsConfig,
    out: Path,
) -> list[Answered]:
    """Every question that could be asked, in the order of the file."""
    groups = plan_groups(records, seen.video_ids)
    swept = run_trials(
        f"questions {subject.name}",
        groups,
        QuestionWorker,
        {"subject": subject, "config": config, "store": seen.store, "spec": seen.spec},
        config=config,
        out=out,
        decided_by=(
            *(seen.weights, subject.rope_base, seen.spec.key),
            deciding(config, DECIDING_QUESTIONS),
        ),
    )
    place = {record.id: number for number, record in enumerate(records)}
    trials = [trial for group in groups for trial in group]
    return [
        Answered(record=trial.record, video_id=trial.video_id, outcome=swept.outcomes[trial.key])
        for trial in sorted(trials, key=lambda trial: place[trial.record.id])
    ]


def _not_asked(records: Sequence[QuestionRecord], seen: _Seen) -> list[dict[str, Any]]:
    return [
        {
            "video": video,
            "error": error,
            "questions": [record.id for record in records if record.video == video],
        }
        for video, error in seen.errors.items()
    ]
