"""What all evaluations share: every model tested, each finished trial kept.

    subjects, a test of one subject -> models and training-free baselines of a report

A test sweeps its trials over the cluster into a ledger, which is named by all that decides an
outcome apart from the trial. So a larger grid of the same test goes on in the same ledger, and
another model or deciding setting begins a new one.

The training-free baseline (paper, section 5.1) is one subject under each of several RoPE bases,
untrained. The best of them becomes a panel right after that subject. Which subject it is differs
between the tests, as it does in the paper's figures. The test on text takes the *first*, the model
before extension. The test on video takes the *last*, so that the baseline is the last panel of
Figure 4.
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
from longva_ray.evaluate.report import ModelResult, best_base
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
) -> tuple[list[ModelResult], list[ModelResult]]:
    """(results of all subjects, with the best RoPE base as one more model after the one whose base
    was raised; results of each base)."""
    results = [test(subject) for subject in subjects]
    place = 0 if raise_base_of == "first" else len(subjects) - 1
    raised = subjects[place]
    tried = [
        test(dataclasses.replace(raised, name=f"{raised.name}, base {base:g}", rope_base=base))
        for base in rope_bases
    ]
    results[place + 1 : place + 1] = best_base(tried, raised.name)
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
