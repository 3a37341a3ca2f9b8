"""Fixtures of the video tests."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `counting_files.counting_file` writes each file once."""
    return tmp_path_factory.mktemp("counting")
