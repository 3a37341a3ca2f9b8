"""Where the repository is, for tests that run its commands."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
JOBS = REPOSITORY / "jobs"
