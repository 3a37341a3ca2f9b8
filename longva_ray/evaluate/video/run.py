"""The visual needle test over a cluster: models, videos and needles in, a report with figures out.

    videos -> shards (Ray Data) -> subjects x (frames x depths x needles) -> <out>/vniah.json, .png

Each model's own encoder makes the haystack and the needles; what the store already has is not
encoded again.
"""

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from longva_ray.evaluate.experiment import (
    DECIDING,
    deciding,
    fingerprint_subjects,
    run_trials,
    try_models,
)
from longva_ray.evaluate.ledger import TrialOutcome
from longva_ray.evaluate.report import ModelResult, describe_subject, versions, write_report
from longva_ray.evaluate.subjects import Subject
from longva_ray.evaluate.video.ceiling import say_ceiling
from longva_ray.evaluate.video.drawn import draw_needles
from longva_ray.evaluate.video.needles import Needle, digest, encode_needles, read_needles
from longva_ray.evaluate.video.report import compare, draw_vniah, summarise
from longva_ray.evaluate.video.vniah import (
    EncodedHaystack,
    EncodedNeedles,
    VniahWorker,
    plan_alone,
    plan_groups,
)
from longva_ray.files.digest import fingerprint_of
from longva_ray.lm.base_models import is_longva
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.settings.needles import VniahConfig
from longva_ray.shards.pipeline import encode_videos
from longva_ray.shards.store import ShardStore

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Eyes:
    """What one checkpoint's encoder made of videos and needles, and its fingerprints."""

    weights: str
    haystack: EncodedHaystack
    haystack_key: str
    needles: EncodedNeedles
    needles_key: str


def check_sight(subjects: Sequence[Subject]) -> None:
    """Raise ValueError for a model without eyes."""
    for subject in subjects:
        if not is_longva(subject.path):
            raise ValueError(f"{subject.path} is no LongVA checkpoint, so it cannot see a needle")


def run_vniah(
    subjects: Sequence[Subject],
    videos: Sequence[str],
    *,
    store: str,
    config: VniahConfig,
    encode: EncodeConfig,
    out: Path,
) -> dict[str, Any]:
    """Test every subject, write report and figure into `out`, return the report.

    `store` is the folder or URI of the shards, as every node reaches it. Goes on where an earlier
    run into the same folder stopped. Raises ValueError for a model, a video, needles or a grid that
    cannot be used.
    """
    check_sight(subjects)
    encode = config.encoding(encode)
    out.mkdir(parents=True, exist_ok=True)
    needles = draw_needles(config, out) if config.needles is None else read_needles(config.needles)
    weights = fingerprint_subjects(subjects)
    seen = {path: _encode(path, weights[path], videos, store, encode, needles) for path in weights}

    def test(subject: Subject) -> ModelResult:
        return _test(subject, seen[subject.path], config, out)

    models, tried = try_models(test, subjects, config.rope_bases, raise_base_of="last")
    report = {
        "test": "vniah",
        "settings": dataclasses.asdict(config),
        "encode": dataclasses.asdict(encode),
        "videos": list(videos),
        "needles": [{"question": n.question, "answer": n.answer} for n in needles],
        "needles_digest": digest(needles),
        "versions": versions(),
        "models": models,
        "training_free": tried,
    }
    write_report(report, out)
    draw_vniah([report], out / "vniah.png")
    return report


def _encode(
    path: str,
    weights: str,
    videos: Sequence[str],
    store: str,
    config: EncodeConfig,
    needles: Sequence[Needle],
) -> _Eyes:
    encoded = encode_videos(videos, store=ShardStore(store), checkpoint=path, config=config)
    if encoded.failed:
        raise ValueError(f"cannot encode {encoded.failed[0].path}: {encoded.failed[0].error}")
    task = ray.remote(num_cpus=config.encoder_cpus, num_gpus=config.encoder_gpus)(encode_needles)
    images = [needle.image_YXC for needle in needles]
    haystack = EncodedHaystack(
        store=store,
        video_ids=tuple(video.video_id for video in encoded.videos),
        spec=encoded.spec,
    )
    return _Eyes(
        weights=weights,
        haystack=haystack,
        haystack_key=fingerprint_of(haystack.video_ids, encoded.spec.key),
        needles=EncodedNeedles(
            tokens_KQD=ray.get(task.remote(path, images, config)),
            questions=tuple(needle.question for needle in needles),
            answers=tuple(needle.answer for needle in needles),
        ),
        needles_key=digest(needles),
    )


def _test(subject: Subject, eyes: _Eyes, config: VniahConfig, out: Path) -> ModelResult:
    outcomes = _sweep(subject, eyes, config, out)
    comparison = None
    if config.compare_plain:
        without = dataclasses.replace(config, reuse_prefix=False, compare_plain=False)
        comparison = compare(outcomes, _sweep(subject, eyes, without, out))
        logger.info("%s: %s", subject.name, comparison)
    described = describe_subject(subject, eyes.weights)
    tokens_per_frame = eyes.needles.tokens_KQD.shape[1]
    return {
        **described,
        "encoder_fingerprint": eyes.haystack.spec.encoder_fingerprint,
        "training_frames": described["training_length"] / tokens_per_frame,
        **summarise(list(outcomes.values())),
        "prefix_reuse": comparison,
    }


def _sweep(
    subject: Subject, eyes: _Eyes, config: VniahConfig, out: Path
) -> Mapping[str, TrialOutcome]:
    num_needles = len(eyes.needles.answers)
    swept = run_trials(
        f"V-NIAH {subject.name}" + ("" if config.reuse_prefix else ", plain"),
        [plan_alone(num_needles), *plan_groups(config, num_needles)],
        VniahWorker,
        {
            "subject": subject,
            "config": config,
            "haystack": eyes.haystack,
            "needles": eyes.needles,
        },
        config=config,
        out=out,
        decided_by=(
            *(eyes.weights, subject.rope_base, eyes.haystack_key, eyes.needles_key),
            deciding(config, DECIDING),
            # Changes no outcome, only the seconds, which are recorded too.
            config.reuse_prefix,
        ),
        recorded=functools.partial(say_ceiling, subject.name),
    )
    return swept.outcomes
