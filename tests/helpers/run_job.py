"""A job's main function in this process."""

import importlib.util
import sys

import pytest
from repository import JOBS


def run_job(name: str, *arguments: str) -> int:
    """A job's main function in this process, on the cluster it is connected to."""
    spec = importlib.util.spec_from_file_location(f"job_{name}", JOBS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    job = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, job)
        spec.loader.exec_module(job)
        return int(job.main(job.parse(job.Options, arguments)))
