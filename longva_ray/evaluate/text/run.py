"""The text needle test over a cluster: models and RoPE bases in, a report with figures out.

    subjects x (distractors x lengths x depths x samples)
        -> <out>/niah.json, niah.png (a panel for each model), perplexity.png

With RoPE bases the first subject is also tested under each of them, untrained; the base with the
best score is a panel of its own behind it, and all of them are in the report (paper, section 5.1).
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from longva_ray.evaluate.heatmap import Curve, Panel, write_curves, write_heatmaps
from longva_ray.evaluate.ledger import Ledger, Outcome
from longva_ray.evaluate.report import by_cell, describe_rates, rates, versions
from longva_ray.evaluate.subjects import Subject, text_config
from longva_ray.evaluate.sweep import sweep
from longva_ray.evaluate.text.haystack import read_essays
from longva_ray.evaluate.text.niah import NiahWorker, Trial, plan_trials, plan_windows
from longva_ray.evaluate.text.perplexity import Window
from longva_ray.files.digest import fingerprint_of
from longva_ray.lm.base_models import fingerprint_checkpoint
from longva_ray.settings.needles import NiahConfig

GROUP_TRIALS = 8
"""Trials handed to a worker at a time: few, so that a kill loses little."""


GRID_FIELDS = ("lengths", "depths", "samples", "distractors", "rope_bases", "perplexity_windows")


PLACE_FIELDS = ("max_workers", "worker_cpus", "worker_gpus", "essays", "reuse_prefix")


def run_niah(subjects: Sequence[Subject], config: NiahConfig, out: Path) -> dict[str, Any]:
    """Test every subject, write report and figures into `out`, return the report.

    Goes on where an earlier run into the same folder stopped. Raises ValueError for a model, an
    essay folder or a grid that cannot be used.
    """
    essays = read_essays(config.essays)
    out.mkdir(parents=True, exist_ok=True)
    fingerprint = ray.remote(fingerprint_checkpoint)
    digests = ray.get([fingerprint.remote(subject.path) for subject in subjects])
    weights = dict(zip(subjects, digests, strict=True))
    results = [_test(subject, weights[subject], config, essays, out) for subject in subjects]
    first = subjects[0]
    tried = [
        _test(
            dataclasses.replace(first, name=f"{first.name}, base {base:g}", rope_base=base),
            weights[first],
            config,
            essays,
            out,
        )
        for base in config.rope_bases
    ]
    if tried:
        best = max(tried, key=lambda result: result["average"]["exact"]["score"])
        results.insert(
            1, best | {"name": f"{first.name}, training-free best", "best_of": len(tried)}
        )
    report = {
        "test": "niah",
        "settings": dataclasses.asdict(config),
        "versions": versions(),
        "models": results,
        "training_free": tried,
    }
    (out / "niah.json").write_text(json.dumps(report, indent=2) + "\n")
    draw_niah(report, out)
    return report


def describe_niah(report: dict[str, Any]) -> str:
    """A report's averages in lines for a person."""
    lines = []
    for model in report["models"]:
        lines.append(f"{model['name']} (base {model['rope_base']:g})")
        lines += [f"  average, {line}" for line in describe_rates(model["average"])]
        lines += [
            f"  {row['length']:>8} tokens, {row['distractors']} distractors: "
            f"{row['exact']['score']:.3f}"
            for row in model["average_by_length"]
        ]
        if model["perplexity"]:
            limit = report["models"][0]["training_length"]
            lines.append(f"  loss on plain essays: {_describe_loss(model['perplexity'], limit)}")
    for model in report["training_free"]:
        score = model["average"]["exact"]["score"]
        lines.append(f"training-free, base {model['rope_base']:g}: {score:.3f}")
    return "\n".join(lines)


def draw_niah(report: dict[str, Any], out: Path) -> None:
    """The figures of a report."""
    rows = [
        [
            Panel(
                title=_title(model, distractors, len(report["settings"]["distractors"])),
                scores={
                    (cell["length"], cell["depth"]): cell["exact"]["score"]
                    for cell in model["cells"]
                    if cell["distractors"] == distractors
                },
                training_length=model["training_length"],
            )
            for model in report["models"]
        ]
        for distractors in report["settings"]["distractors"]
    ]
    write_heatmaps(
        out / "niah.png", rows, x_label="context length (tokens)", y_label="needle depth"
    )
    curves = [
        Curve(
            name=model["name"],
            x=model["perplexity"]["position"],
            y=model["perplexity"]["perplexity"],
            training_length=model["training_length"],
        )
        for model in report["models"]
        if model["perplexity"]
    ]
    if curves:
        write_curves(out / "perplexity.png", curves, x_label="position", y_label="perplexity")


def _test(
    subject: Subject, weights: str, config: NiahConfig, essays: str, out: Path
) -> dict[str, Any]:
    settings = dataclasses.asdict(config)
    deciding = {name: settings[name] for name in settings.keys() - {*GRID_FIELDS, *PLACE_FIELDS}}
    # The longest length is among them: how often essays are repeated may change their tokens.
    fingerprint = fingerprint_of(
        weights, subject.dtype, subject.rope_base, deciding, essays, max(config.lengths)
    )
    ledger = Ledger(out / "ledgers", fingerprint)
    trials, windows = plan_trials(config), plan_windows(config)
    groups: list[Sequence[Trial | Window]] = [
        trials[start : start + GROUP_TRIALS] for start in range(0, len(trials), GROUP_TRIALS)
    ]
    sweep(
        f"NIAH {subject.name}",
        [*groups, windows],
        lambda item: item.key,
        NiahWorker,
        {"subject": subject, "config": config, "essays": essays},
        config=config,
        ledger=ledger,
    )
    return {
        "name": subject.name,
        "path": subject.path,
        "fingerprint": weights,
        "dtype": subject.dtype,
        "rope_base": text_config(subject).rope_parameters["rope_theta"],
        "training_length": subject.training_length
        or text_config(dataclasses.replace(subject, rope_base=None)).max_position_embeddings,
        "ledger": ledger.path.name,
        **_summary([ledger[trial.key] for trial in trials]),
        "perplexity": _perplexity([ledger[window.key] for window in windows]),
    }


def _summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    cells = by_cell(outcomes, lambda o: (o["distractors"], o["length"], o["depth"]))
    groups = by_cell(outcomes, lambda o: (o["distractors"],))
    lengths = by_cell(outcomes, lambda o: (o["distractors"], o["length"]))
    return {
        "average": rates(outcomes),
        "average_by_distractors": {str(d): rates(group) for (d,), group in groups.items()},
        "average_by_length": [
            {"distractors": distractors, "length": length} | rates(group)
            for (distractors, length), group in lengths.items()
        ],
        "largest_shift_of_depth": max(abs(o["true_depth"] - o["depth"]) for o in outcomes),
        "cells": [
            {"distractors": distractors, "length": length, "depth": depth} | rates(group)
            for (distractors, length, depth), group in cells.items()
        ],
    }


def _perplexity(windows: Sequence[Outcome]) -> dict[str, Any] | None:
    """Of plain essays, by position; `loss` is the mean over all `tokens` positions, in nats."""
    if not windows:
        return None
    stretches = list(itertools.pairwise(windows[0]["edges"]))
    means = [sum(nll) / len(nll) for nll in zip(*(w["nll"] for w in windows), strict=True)]
    whole = sum((stop - start) * mean for (start, stop), mean in zip(stretches, means, strict=True))
    return {
        "loss": whole / stretches[-1][1],
        "tokens": stretches[-1][1],
        "position": [(start + stop) / 2 for start, stop in stretches],
        "perplexity": [math.exp(mean) for mean in means],
    }


def _describe_loss(perplexity: dict[str, Any], limit: int) -> str:
    """The mean loss up to position `limit`, and behind it where there is anything."""
    parts: dict[str, list[float]] = {f"up to {limit}": [], f"behind {limit}": []}
    inside, behind = parts.values()
    for position, value in zip(perplexity["position"], perplexity["perplexity"], strict=True):
        (inside if position < limit else behind).append(math.log(value))
    means = [f"{sum(part) / len(part):.4f} {where}" for where, part in parts.items() if part]
    return f"{', '.join(means)} of {perplexity['tokens']} tokens, in nats"


def _title(model: dict[str, Any], distractors: int, rows: int) -> str:
    score = model["average_by_distractors"][str(distractors)]["exact"]["score"]
    suffix = f", {distractors} distractors" if rows > 1 or distractors else ""
    return f"{model['name']}{suffix}: {score:.3f}"
