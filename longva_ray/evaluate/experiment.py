"""What all evaluations share: every model tested, each finished trial kept.

    subjects, a test of one subject -> models and training-free baselines of a report

A test sweeps its trials over the cluster into a ledger, which is named by all that decides an
outcome apart from the trial. So a larger grid of the same test goes on in the same ledger, and
another model or deciding setting begins a new one.

The training-free baseline (paper, section 5.1) is one subject under each of several RoPE bases,
untrained; the best of them by score is shown. It is a subject of its own where one is named so
(`baselines`). Otherwise the bases in the settings are tried on one of the others, and the best
becomes a panel right after it. The test on text takes the *first*, the model before extension. The
test on video and questions take the *last*, so that the baseline is the last panel of Figure 4.
"""

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import ray

from longva_ray.cluster.gang import MakeWorker
from longva_ray.cluster.job import connect
from longva_ray.evaluate.ledger import Ledger, TrialOutcome
from longva_ray.evaluate.report import ModelResult, best_base, exact_score
from longva_ray.evaluate.subjects import Subject
from longva_ray.evaluate.sweep import sweep
from longva_ray.files.digest import fingerprint_of
from longva_ray.lm.fingerprints import fingerprint_checkpoint
from longva_ray.settings.sweep import SweepConfig

DECIDING = ("dtype", "ring_size", "prefill_chunk", "generate", "extra_tokens")
"""Settings of every needle test that may change an outcome; a test adds its own. All others choose
trials, or where they run."""


class Keyed(Protocol):
    """A trial, or anything else that has a name in a ledger."""

    @property
    def key(self) -> str: ...


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Swept:
    """Every outcome of a sweep by its key, and the name of the file that keeps them."""

    outcomes: Mapping[str, TrialOutcome]
    ledger: str


def fingerprint_subjects(subjects: Sequence[Subject]) -> dict[str, str]:
    """Fingerprint of each subject's weights by its path; read in tasks, all at the same time."""
    connect()
    task = ray.remote(fingerprint_checkpoint)
    running = {subject.path: task.remote(subject.path) for subject in subjects}
    return dict(zip(running, ray.get(list(running.values())), strict=True))


def try_models(
    test: Callable[[Subject], ModelResult],
    subjects: Sequence[Subject],
    rope_bases: Sequence[float],
    *,
    raise_base_of: Literal["first", "last"],
    score: Callable[[ModelResult], float] = exact_score,
) -> tuple[list[ModelResult], list[ModelResult]]:
    """(results of all subjects, results of each RoPE base that was tried).

    Args:
        rope_bases: in place of those of a subject with `try_bases`. Where there is no such subject
            they are tried on the one that `raise_base_of` says, and the best of them is one more
            result after its own.
        score: by which the best base is chosen.
    """
    results: list[ModelResult] = []
    tried: list[ModelResult] = []

    def try_bases(subject: Subject, bases: Sequence[float], title: str) -> None:
        found = [
            test(
                dataclasses.replace(subject, name=f"{subject.name}, base {base:g}", rope_base=base)
            )
            for base in bases
        ]
        results.extend(best_base(found, title, score))
        tried.extend(found)

    named = any(subject.try_bases for subject in subjects)
    raised = subjects[0 if raise_base_of == "first" else -1]
    for subject in subjects:
        if subject.try_bases:
            try_bases(subject, rope_bases or subject.try_bases, subject.name)
        else:
            results.append(test(subject))
            if subject is raised and not named:
                try_bases(subject, rope_bases, f"{subject.name}, training-free best")
    return results, tried


def deciding(config: SweepConfig, names: Sequence[str]) -> dict[str, Any]:
    """These settings, as a fingerprint takes them."""
    settings = dataclasses.asdict(config)
    return {name: settings[name] for name in names}


def run_trials(
    title: str,
    groups: Sequence[Sequence[Keyed]],
    make_worker: MakeWorker,
    arguments: Mapping[str, Any],
    *,
    config: SweepConfig,
    out: Path,
    decided_by: Sequence[Any],
    recorded: Callable[[Mapping[str, TrialOutcome]], None] | None = None,
) -> Swept:
    """Every trial's outcome, from the ledger in `out` or newly run; see `sweep`.

    Args:
        decided_by: everything apart from a trial that decides its outcome, as values of JSON.
        recorded: see `sweep`.
    """
    ledger = Ledger(out / "ledgers", fingerprint_of(*decided_by))
    key = operator.attrgetter("key")
    sweep(
        title,
        groups,
        key,
        make_worker,
        arguments,
        config=config,
        ledger=ledger,
        recorded=recorded,
    )
    outcomes = {trial.key: ledger[trial.key] for group in groups for trial in group}
    return Swept(outcomes=outcomes, ledger=ledger.path.name)
