"""Why the workers of a run failed: a user's mistake, or a few lines a person can act on."""

import re

from ray.train import TrainingFailedError, WorkerGroupError

from longva_ray.cluster.job import MISTAKES

_ERROR_LINE = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt|Timeout)\b")


def mistake_in(error: TrainingFailedError) -> Exception | None:
    """The user's mistake that a worker found, if that is why the run failed. Others may have failed
    because that one did."""
    failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    found = [failure for _, failure in sorted(failures.items()) if isinstance(failure, MISTAKES)]
    return found[0] if found else None


def explain(error: TrainingFailedError, doing: dict[int, str]) -> str:
    """A failure in a few lines: what each rank said, and what each one did last, which tells who
    hung or was lost."""
    if not isinstance(error, WorkerGroupError):
        return str(error)
    lines = [
        f"rank {rank}: {_cause(failure)}" for rank, failure in sorted(error.worker_failures.items())
    ]
    last = [f"rank {rank} {what}" for rank, what in doing.items()]
    return "\n".join(["the workers failed:", *lines, f"last known: {', '.join(last)}"])


def _cause(failure: Exception) -> str:
    """The line of a worker's traceback that names the error; Ray gives only the text of one."""
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    named = [line for line in lines if _ERROR_LINE.match(line)]
    return (named or lines or [type(failure).__name__])[-1]
