"""The text needle test over a cluster: models and RoPE bases in, a report with figures out.

subjects x (distractors x lengths x depths x samples)
    -> <out>/niah.json, niah.png (a panel for each model), perplexity.png
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longva_ray.evaluate.experiment import (
    DECIDING,
    Keyed,
    deciding,
    fingerprint_subjects,
    run_trials,
    try_models,
)
from longva_ray.evaluate.report import ModelResult, describe_subject, versions, write_report
from longva_ray.evaluate.subjects import Subject
from longva_ray.evaluate.text.haystack import read_essays
from longva_ray.evaluate.text.niah import NiahWorker, plan_trials, plan_windows
from longva_ray.evaluate.text.report import average_windows, draw_niah, summarise
from longva_ray.files.folder import write_once
from longva_ray.settings.needles import NiahConfig
from longva_ray.tiny.essays import write_essays

DECIDING_NIAH = (
    *DECIDING,
    *("seed", "digits", "city", "cities"),
    *("prefix", "needle", "question", "answer"),
)
"""Settings that may change an outcome."""


TINY_ESSAY_SEED = 99
"""The seed of the test is added; that of the published test of longva-tiny is 0."""


GROUP_TRIALS = 8
"""Trials handed to a worker at a time: few, so that a kill loses little."""


def run_niah(subjects: Sequence[Subject], config: NiahConfig, out: Path) -> dict[str, Any]:
    """Test every subject, write report and figures into `out`, return the report.

    Goes on where an earlier run into the same folder stopped. Raises ValueError for a model, an
    essay folder or a grid that cannot be used.
    """
    out.mkdir(parents=True, exist_ok=True)
    essays = _essays(config, out)
    weights = fingerprint_subjects(subjects)

    def test(subject: Subject) -> ModelResult:
        return _test(subject, weights[subject.path], config, essays, out)

    models, tried = try_models(test, subjects, config.rope_bases, raise_base_of="first")
    report = {
        "test": "niah",
        "settings": dataclasses.asdict(config),
        "versions": versions(),
        "models": models,
        "training_free": tried,
    }
    write_report(report, out)
    draw_niah(report, out)
    return report


def _essays(config: NiahConfig, out: Path) -> str:
    """The haystack's text; drawn essays are also left in `out`."""
    if config.essays is not None or config.world == "english":
        return read_essays(config.essays)
    place = out / f"essays-tiny-seed{config.seed}"
    write_once(place, lambda path: write_essays(path, TINY_ESSAY_SEED + config.seed))
    return read_essays(str(place))


def _test(
    subject: Subject, weights: str, config: NiahConfig, essays: str, out: Path
) -> ModelResult:
    trials, windows = plan_trials(config), plan_windows(config)
    groups: list[Sequence[Keyed]] = [
        trials[start : start + GROUP_TRIALS] for start in range(0, len(trials), GROUP_TRIALS)
    ]
    settings = deciding(config, DECIDING_NIAH)
    swept = run_trials(
        f"NIAH {subject.name}",
        [*groups, windows],
        NiahWorker,
        {"subject": subject, "config": config, "essays": essays},
        config=config,
        out=out,
        # The longest length is among them: how often essays are repeated may change their tokens.
        decided_by=(
            *(weights, subject.dtype, subject.rope_base),
            *(settings, essays, max(config.lengths)),
        ),
    )
    return {
        **describe_subject(subject, weights),
        "ledger": swept.ledger,
        **summarise([swept.outcomes[trial.key] for trial in trials]),
        "perplexity": average_windows([swept.outcomes[window.key] for window in windows]),
    }
