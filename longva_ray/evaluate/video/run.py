"""The visual needle test over a cluster: models, videos and needles in, a report with figures out.

    videos -> shards (Ray Data) -> subjects x (frames x depths x needles) -> <out>/vniah.json, .png

Each model's own encoder makes the haystack and the needles; what the store already has is not
encoded again. With RoPE bases the last subject is also tested under each of them, untrained, and
the best is the last panel (Figure 4 of the paper).
"""

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from longva_ray.evaluate.heatmap import Panel, write_heatmaps
from longva_ray.evaluate.ledger import Ledger, Outcome
from longva_ray.evaluate.report import (
    VERDICTS,
    by_cell,
    describe_rates,
    pool_rates,
    rates,
    versions,
)
from longva_ray.evaluate.subjects import Subject, text_config
from longva_ray.evaluate.sweep import sweep
from longva_ray.evaluate.video.haystack import write_haystack_video
from longva_ray.evaluate.video.needles import (
    Needle,
    digest,
    draw_cards,
    encode_needles,
    read_needles,
)
from longva_ray.evaluate.video.vniah import EncodedHaystack, Questions, VniahWorker, plan_groups
from longva_ray.files.digest import fingerprint_of
from longva_ray.lm.base_models import fingerprint_checkpoint, is_longva
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.settings.needles import VniahConfig
from longva_ray.shards.pipeline import encode_videos
from longva_ray.shards.store import ShardStore

logger = logging.getLogger(__name__)


DECIDING_FIELDS = ("dtype", "ring_size", "prefill_chunk", "generate", "extra_tokens")
"""Settings that may change an outcome; the others choose trials or where they run."""


GENERATED_NEEDLES = 5
"""Cards drawn when no needles are given: as many as the paper has."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Prepared:
    """One subject with everything its trials need."""

    subject: Subject
    weights: str
    haystack: EncodedHaystack
    haystack_key: str
    questions: Questions


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
    for subject in subjects:
        if not is_longva(subject.path):
            raise ValueError(f"{subject.path} is no LongVA checkpoint, so it cannot see a needle")
    needles = (
        draw_cards(GENERATED_NEEDLES, seed=config.seed)
        if config.needles is None
        else read_needles(config.needles)
    )
    out.mkdir(parents=True, exist_ok=True)
    prepared = [_prepare(subject, videos, store, encode, needles) for subject in subjects]
    results = [_test(one, config, needles, out) for one in prepared]
    tried = [
        _test(_at_base(prepared[-1], base), config, needles, out) for base in config.rope_bases
    ]
    results += _best(tried, subjects[-1].name)
    report = {
        "test": "vniah",
        "settings": dataclasses.asdict(config),
        "encode": dataclasses.asdict(encode),
        "videos": list(videos),
        "needles": [{"question": n.question, "answer": n.answer} for n in needles],
        "needles_digest": digest(needles),
        "versions": versions(),
        "models": results,
        "training_free": tried,
    }
    (out / "vniah.json").write_text(json.dumps(report, indent=2) + "\n")
    draw_vniah([report], out / "vniah.png")
    return report


def average_over_seeds(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One report of the same models and grid on several haystacks and sets of needles: trials are
    pooled, and `seed_scores` has the average of each report.

    The best RoPE base is the best over all of them. Raises ValueError for reports of other models.
    """
    trained, tried = (
        [
            _pool([report[kind][place] for report in reports])
            for place in range(len(reports[0][kind]))
            if "best_of" not in reports[0][kind][place]
        ]
        for kind in ("models", "training_free")
    )
    return {
        "test": "vniah",
        "seeds": len(reports),
        "settings": reports[0]["settings"],
        "versions": reports[0]["versions"],
        "models": trained + _best(tried, trained[-1]["name"]),
        "training_free": tried,
    }


def draw_vniah(reports: Sequence[dict[str, Any]], path: Path) -> None:
    """All models of all reports as the panels of one figure."""
    panels = [
        Panel(
            title=f"{model['name']}: {model['average']['exact']['score']:.3f}",
            scores={
                (cell["Num. Frame"], cell["Frame Depth"] / 100): cell["Score"]
                for cell in model["cells"]
            },
            training_length=model["training_frames"],
        )
        for report in reports
        for model in report["models"]
    ]
    write_heatmaps(path, [panels], x_label="frames in the haystack", y_label="frame depth")


def make_haystack(config: VniahConfig, folder: Path) -> str:
    """A video with as many frames at 1 frame/s as the grid asks for, from the seed; made once."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"haystack-{max(config.frames)}-seed{config.seed}.mp4"
    if not path.exists():
        logger.info("making a haystack of %d frames: %s", max(config.frames), path)
        write_haystack_video(path, seconds=max(config.frames), seed=config.seed)
    return str(path)


def describe_vniah(report: dict[str, Any]) -> str:
    """A report's averages in lines for a person."""
    lines = []
    for model in report["models"]:
        lines.append(f"{model['name']} (base {model['rope_base']:g})")
        lines += [f"  average, {line}" for line in describe_rates(model["average"])]
        lines += [f"  guess floor, {line}" for line in describe_rates(model["guess_floor"])]
        lines += [
            f"  {row['frames']:>8} frames: {row['exact']['score']:.3f}"
            for row in model["average_by_frames"]
        ]
        if model["prefix_reuse"]:
            lines.append(f"  prefix reuse: {json.dumps(model['prefix_reuse'])}")
    for model in report["training_free"]:
        score = model["average"]["exact"]["score"]
        lines.append(f"training-free, base {model['rope_base']:g}: {score:.3f}")
    return "\n".join(lines)


def _best(tried: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The best of the RoPE bases as one more model; nothing when none was tried."""
    if not tried:
        return []
    best = max(tried, key=lambda result: result["average"]["exact"]["score"])
    return [best | {"name": f"{name}, training-free best", "best_of": len(tried)}]


def _pool(models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One model's results on several haystacks and sets of needles as those of one."""
    first = models[0]
    names = ("name", "fingerprint", "rope_base")
    if any(model[name] != first[name] for model in models for name in names):
        raise ValueError(
            f"want reports of the same models in the same order, got {first['name']} beside "
            f"{', '.join(model['name'] for model in models[1:])}"
        )

    def pool(several: Sequence[dict[str, Any]]) -> dict[str, Any]:
        found = {verdict: pool_rates([each[verdict] for each in several]) for verdict in VERDICTS}
        return several[0] | found

    def by_row(table: str) -> list[dict[str, Any]]:
        return [pool(rows) for rows in zip(*(model[table] for model in models), strict=True)]

    cells = [cell | {"Score": cell["exact"]["score"]} for cell in by_row("cells")]
    floors = [model["guess_floor"] for model in models]
    return {name: value for name, value in first.items() if name != "average_by_needle"} | {
        "average": pool([model["average"] for model in models]),
        "seed_scores": [model["average"]["exact"]["score"] for model in models],
        "guess_floor": None if None in floors else pool(floors),
        "average_by_frames": by_row("average_by_frames"),
        "cells": cells,
    }


def _prepare(
    subject: Subject,
    videos: Sequence[str],
    store: str,
    encode: EncodeConfig,
    needles: Sequence[Needle],
) -> _Prepared:
    encoded = encode_videos(videos, store=ShardStore(store), checkpoint=subject.path, config=encode)
    if encoded.failed:
        raise ValueError(f"cannot encode {encoded.failed[0].path}: {encoded.failed[0].error}")
    task = ray.remote(num_cpus=encode.encoder_cpus, num_gpus=encode.encoder_gpus)(encode_needles)
    images = [needle.image_YXC for needle in needles]
    haystack = EncodedHaystack(
        store=store,
        video_ids=tuple(video.video_id for video in encoded.videos),
        spec=encoded.spec,
    )
    return _Prepared(
        subject=subject,
        weights=ray.get(ray.remote(fingerprint_checkpoint).remote(subject.path)),
        haystack=haystack,
        haystack_key=fingerprint_of(haystack.video_ids, encoded.spec.key),
        questions=Questions(
            tokens_KQD=ray.get(task.remote(subject.path, images, encode)),
            questions=tuple(needle.question for needle in needles),
            answers=tuple(needle.answer for needle in needles),
        ),
    )


def _at_base(prepared: _Prepared, base: float) -> _Prepared:
    subject = prepared.subject
    renamed = dataclasses.replace(subject, name=f"{subject.name}, base {base:g}", rope_base=base)
    return dataclasses.replace(prepared, subject=renamed)


def _test(
    prepared: _Prepared, config: VniahConfig, needles: Sequence[Needle], out: Path
) -> dict[str, Any]:
    subject = prepared.subject
    outcomes = _sweep(prepared, config, needles, out)
    comparison = None
    if config.compare_plain:
        without = dataclasses.replace(config, reuse_prefix=False, compare_plain=False)
        plain = _sweep(prepared, without, needles, out)
        comparison = compare(outcomes, plain)
        logger.info("%s: %s", subject.name, comparison)
    tokens_per_frame = prepared.questions.tokens_KQD.shape[1]
    own_config = text_config(dataclasses.replace(subject, rope_base=None))
    training_length = subject.training_length or own_config.max_position_embeddings
    return {
        "name": subject.name,
        "path": subject.path,
        "fingerprint": prepared.weights,
        "encoder_fingerprint": prepared.haystack.spec.encoder_fingerprint,
        "dtype": subject.dtype,
        "rope_base": text_config(subject).rope_parameters["rope_theta"],
        "training_length": training_length,
        "training_frames": training_length / tokens_per_frame,
        **_summary(list(outcomes.values())),
        "prefix_reuse": comparison,
    }


def _sweep(
    prepared: _Prepared, config: VniahConfig, needles: Sequence[Needle], out: Path
) -> dict[str, Outcome]:
    groups = plan_groups(config, len(needles))
    settings = {name: dataclasses.asdict(config)[name] for name in DECIDING_FIELDS}
    fingerprint = fingerprint_of(
        prepared.weights,
        prepared.subject.rope_base,
        prepared.haystack_key,
        digest(needles),
        settings,
        # Decides no outcome, but seconds, which are recorded too.
        config.reuse_prefix,
    )
    ledger = Ledger(out / "ledgers", fingerprint)
    sweep(
        f"V-NIAH {prepared.subject.name}" + ("" if config.reuse_prefix else ", plain"),
        groups,
        lambda trial: trial.key,
        VniahWorker,
        {
            "subject": prepared.subject,
            "config": config,
            "haystack": prepared.haystack,
            "questions": prepared.questions,
        },
        config=config,
        ledger=ledger,
    )
    return {trial.key: ledger[trial.key] for group in groups for trial in group}


def compare(reused: dict[str, Outcome], plain: dict[str, Outcome]) -> dict[str, Any]:
    """Seconds of both paths over the same grid; asserts that they decided the same."""
    decisions = ("exact", "generated", "predicted_ids", "text")
    differing = [
        key
        for key, outcome in reused.items()
        if any(outcome[name] != plain[key][name] for name in decisions)
    ]
    assert not differing, f"prefix reuse changed {len(differing)} decisions, first {differing[0]}"
    seconds = {
        "seconds_reused": sum(outcome["seconds"] for outcome in reused.values()),
        "seconds_plain": sum(outcome["seconds"] for outcome in plain.values()),
    }
    return seconds | {
        "times_fewer_seconds": seconds["seconds_plain"] / seconds["seconds_reused"],
        "trials_with_identical_decisions": len(reused),
    }


def _summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    asked = [outcome for outcome in outcomes if outcome["depth"] is not None]
    floor = [outcome for outcome in outcomes if outcome["depth"] is None]
    cells = by_cell(asked, lambda outcome: (outcome["num_frames"], outcome["depth"]))
    lengths = by_cell(asked, lambda outcome: (outcome["num_frames"],))
    by_needle = by_cell(asked, lambda outcome: (outcome["needle"],))
    return {
        "average": rates(asked),
        "guess_floor": rates(floor) if floor else None,
        "average_by_frames": [{"frames": n} | rates(group) for (n,), group in lengths.items()],
        "average_by_needle": [{"needle": k} | rates(group) for (k,), group in by_needle.items()],
        "cells": [
            {
                "Num. Frame": num_frames,
                "Frame Depth": round(depth * 100, 2),
                "Score": sum(outcome["exact"] for outcome in group) / len(group),
            }
            | rates(group)
            for (num_frames, depth), group in cells.items()
        ],
    }
