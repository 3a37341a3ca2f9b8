"""How the process of a command begins and ends: logging, GPUs, Ray, and a user's mistakes."""

import logging
import os
from collections.abc import Callable

logger = logging.getLogger(__name__)

_CHATTY = ("ray.data", "ray.serve", "httpx")


def run_job(main: Callable[[], int]) -> None:
    """Run the main function of a command and exit with its status. A user's mistake (ValueError,
    FileNotFoundError) is one line and a nonzero exit status. Logs lines of INFO and above, unless
    the caller has set up logging."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    hide_gpus_from_cpu_workers()
    try:
        status = main()
    except (ValueError, FileNotFoundError) as error:
        logger.debug("the error came from", exc_info=True)
        raise SystemExit(f"error: {error}") from error
    raise SystemExit(status)


def hide_gpus_from_cpu_workers() -> None:
    """Let workers that ask for no GPU see none. This holds for a cluster that this process starts;
    a running cluster has decided for itself (see cluster.yaml)."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")


def start_ray_quietly() -> None:
    """Connect to the cluster of this machine or start one, and show only warnings of Ray."""
    import ray

    ray.init(logging_level=logging.WARNING, log_to_driver=False)
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)
