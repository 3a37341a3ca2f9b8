"""How the process of a command begins and ends: logging, GPUs, Ray, and a user's mistakes."""

import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)

_CHATTY = ("ray.data", "ray.serve", "httpx")


MISTAKES = (ValueError, FileNotFoundError, FloatingPointError)
"""What a user can mend: the last one says that weights are broken. Anything else is a fault of
ours, or of the machine."""


def run_job(main: Callable[[], int]) -> None:
    """Run the main function of a command and exit with its status. A user's mistake, found here or
    inside a Ray task, is one line and a nonzero exit status; so are SIGTERM and Ctrl-C, with the
    status that a shell gives them. Logs lines of INFO and above, unless the caller has set up
    logging."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    hide_gpus_from_cpu_workers()
    try:
        with _ends_with_its_reader():
            status = main()
    except MISTAKES as error:
        logger.debug("the error came from", exc_info=True)
        raise SystemExit(f"error: {_as_raised(error)}") from error
    except KeyboardInterrupt:
        received = _signals[-1] if _signals else signal.SIGINT
        logger.warning("stopped by %s; what was finished is kept", signal.Signals(received).name)
        status = 128 + received
    raise SystemExit(status)


def _as_raised(error: Exception) -> Exception:
    """The mistake itself: Ray hands on what a task raised with the traceback as its text."""
    if "ray" in sys.modules:
        from ray.exceptions import RayTaskError

        if isinstance(error, RayTaskError):
            mistake: Exception = error.cause
            return mistake
    return error


@contextmanager
def _ends_with_its_reader() -> Iterator[None]:
    """What is piped into `head` ends without a word when that has read enough, as a Unix tool does.
    SIGPIPE's own way to end a process is no choice: it also ends one whose connection is lost."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # else Python does it too late to be heard, and complains
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


def _reader_is_gone() -> bool:
    """Whether standard output is the pipe that is broken, and no other."""
    standard_output = select.poll()
    standard_output.register(sys.stdout, select.POLLERR)
    return bool(standard_output.poll(0))


def connect() -> None:
    """Connect to the cluster or start one on this machine, unless that was done. Called where the
    cluster is first needed, so that a mistake that shows before costs no wait for Ray."""
    import ray

    if not ray.is_initialized():
        ray.init()
        interrupt_at_sigterm()


def interrupt_at_sigterm() -> None:
    """From now on SIGTERM (`ray job stop`) interrupts this process as Ctrl-C does. For after
    `ray.init`, whose handlers print a stack of C++ code and abort; of what a handler raises, a wait
    in that code knows KeyboardInterrupt alone. Only a main thread can handle signals."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


_signals: list[int] = []
"""Those received, for the exit status: Ray's code raises a KeyboardInterrupt of its own."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    _signals.append(number)
    raise KeyboardInterrupt


def hide_gpus_from_cpu_workers() -> None:
    """Let workers that ask for no GPU see none. This holds for a cluster that this process starts;
    a running cluster has decided for itself (see cluster.yaml)."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")


def start_ray_quietly() -> None:
    """Connect to the cluster of this machine or start one, and show only warnings of Ray."""
    import ray

    ray.init(logging_level=logging.WARNING, log_to_driver=False)
    interrupt_at_sigterm()
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)
