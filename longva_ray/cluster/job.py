"""The main function of a job: a user's mistake is one line and a nonzero exit status."""

import logging
import os
from collections.abc import Callable

logger = logging.getLogger(__name__)


def hide_gpus_from_cpu_workers() -> None:
    """Let workers that ask for no GPU see none, in a cluster that this process starts; one that
    runs already decides for itself (cluster.yaml)."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")


def run_job(main: Callable[[], int]) -> None:
    """Run a job's main function and turn a user's mistake into one line and a nonzero exit
    status."""
    hide_gpus_from_cpu_workers()
    try:
        status = main()
    except (ValueError, FileNotFoundError) as error:
        logger.debug("the error came from", exc_info=True)
        raise SystemExit(f"error: {error}") from error
    raise SystemExit(status)
