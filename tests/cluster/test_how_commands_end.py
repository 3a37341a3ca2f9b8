"""A user's mistake reaches the terminal as one line, wherever it was found; so does a signal."""

import os
import pickle
import signal

import pyarrow as pa
import pytest
from ray.exceptions import RayTaskError

from longva_ray.cluster.job import interrupt_at_sigterm, run_job
from longva_ray.cluster.tasks import _Task


def raised_in_a_task(mistake: Exception) -> RayTaskError:
    """As `ray.get` raises it: its text is the traceback of the worker."""
    error = RayTaskError("task", f"Traceback:\n  many lines\n{mistake!r}", mistake)
    return error.as_instanceof_cause()


@pytest.mark.parametrize("in_a_task", [False, True])
@pytest.mark.parametrize(
    "mistake",
    [
        ValueError("a line is no JSON"),
        FileNotFoundError(2, "No such file", "a.mp4"),
        FloatingPointError("the highest logit is nan"),
    ],
)
def test_the_mistake_is_the_only_line(mistake: Exception, in_a_task: bool) -> None:
    def main() -> int:
        raise raised_in_a_task(mistake) if in_a_task else mistake

    with pytest.raises(SystemExit) as ended:
        run_job(main)
    assert ended.value.code == f"error: {mistake}"


@pytest.mark.parametrize("fault", [KeyError("x"), PermissionError("no")])
def test_a_fault_of_ours_keeps_its_traceback(fault: Exception) -> None:
    def main() -> int:
        raise raised_in_a_task(fault)

    with pytest.raises(type(fault)):
        run_job(main)


def test_a_signal_ends_a_command_with_its_own_status(caplog: pytest.LogCaptureFixture) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def main() -> int:
        interrupt_at_sigterm()
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    with pytest.raises(SystemExit) as ended:
        run_job(main)
    signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143
    assert "stopped by SIGTERM" in caplog.text


def divide(number: int) -> float:
    if number == 2:
        raise ValueError("two is no number")
    return 1 / number


def done(number: int) -> object:
    row = {"number": [number], "task": [pickle.dumps((number,))]}
    (result,) = _Task(divide)(pa.table(row)).column("result").to_pylist()
    return pickle.loads(result)


def test_a_task_hands_on_a_mistake_as_a_result() -> None:
    assert done(4) == (0.25, None)
    result, mistake = done(2)
    assert result is None
    assert (type(mistake), str(mistake)) == (ValueError, "two is no number")
    assert "in divide" in mistake.__notes__[0]  # where it came from
    with pytest.raises(ZeroDivisionError):
        done(0)
