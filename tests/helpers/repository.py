"""Where the repository is, for tests that run its commands."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).parents[2]
JOBS = REPOSITORY / "jobs"

PATIENCE_S = 600
"""How long a test waits for a process: a busy machine is no failure. Below pytest's own limit."""


def load_job(job: Path) -> ModuleType:
    """A job as a module: its `Options` and its `main`."""
    name = f"loaded_{job.stem}"
    spec = importlib.util.spec_from_file_location(name, job)
    assert spec is not None
    assert spec.loader is not None
    # Options find the text of their help by the name of their module.
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
