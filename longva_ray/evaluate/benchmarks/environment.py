"""The environment of lmms-eval: a virtual environment of its own, made on first use. What it
requires cannot live beside this package: av below 16, filelock below 3.26.

Where torchvision's compiled part does not fit the build of torch, such as one for CUDA beside a
torch for CPUs, torchvision cannot be imported: it describes operators that are not there. lmms-eval
imports it and needs none of them, so a `sitecustomize.py` of the environment declares them.
"""

import logging
import shutil
import subprocess
import venv
from pathlib import Path

from longva_ray.files.folder import lock

logger = logging.getLogger(__name__)

VERSION = "0.7.3"
"""Of lmms-eval: its tasks' names, files and prompts are those of the catalogue."""

REQUIREMENTS = (
    *(f"lmms-eval=={VERSION}", "torch==2.13.0", "torchvision==0.28.0"),
    *("av<16", "filelock<3.26", "scikit-image", "pooch"),
)

_UNFINISHED = "unfinished.txt"
"""In an environment that is being made."""

_SITECUSTOMIZE = '''\
"""Declares operators of torchvision when it is about to be imported and its own part cannot be."""

import importlib.abc
import importlib.util
import pathlib
import sys


class DeclareOperators(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None:
            declare(pathlib.Path(spec.origin).parent)
        return spec


def declare(package):
    import torch

    try:
        (compiled,) = package.glob("_C.*")
        torch.ops.load_library(compiled)
    except (OSError, ValueError):
        for operator in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{operator}", schema)


sys.meta_path.insert(0, DeclareOperators())
'''


def default_place() -> Path:
    """Where the environment is made unless another place is named."""
    return Path.home() / ".cache" / "longva_ray" / f"lmms-eval-{VERSION}"


def lmms_python(place: Path) -> Path:
    """The Python of the environment, which is made if it is not there yet: some GB, and minutes.

    Raises ValueError when its packages cannot be installed, and for a folder that holds something
    else. A half-made one is made anew.
    """
    python = place / "bin" / "python"
    place.parent.mkdir(parents=True, exist_ok=True)
    with lock(place.with_name(f"{place.name}.lock")):
        if not place.exists() or (place / _UNFINISHED).exists():
            _make(place, python)
        elif _lmms_version(python) != VERSION:
            raise ValueError(
                f"{place} is no environment with lmms-eval {VERSION}; remove it, or name another "
                "folder by --environment"
            )
    return python


def _lmms_version(python: Path) -> str:
    code = "from importlib.metadata import version; print(version('lmms-eval'))"
    try:
        return _run(python, code)
    except (OSError, subprocess.CalledProcessError):
        return "none"


def _run(python: Path, code: str) -> str:
    command = [str(python), "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _make(place: Path, python: Path) -> None:
    logger.info("making an environment for lmms-eval %s in %s, once", VERSION, place)
    if place.exists():
        shutil.rmtree(place)
    place.mkdir()
    (place / _UNFINISHED).touch()
    venv.create(place, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--progress-bar=off", *REQUIREMENTS]
    logger.info("%s", " ".join(command))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            # What is downloaded, and the end; not a line for each requirement that is met.
            if line.startswith(("  Downloading", "Installing", "Successfully", "ERROR")):
                logger.info("pip: %s", line.strip()[:200])
    if pip.returncode:
        raise ValueError(
            f"pip could not install {', '.join(REQUIREMENTS)} into {place}; make an environment "
            "with them yourself and name its folder by --environment"
        )
    declare_operators(python)
    (place / _UNFINISHED).unlink()


def declare_operators(python: Path) -> None:
    """Write `sitecustomize.py` into the environment of that Python."""
    packages = _run(python, "import sysconfig; print(sysconfig.get_path('purelib'))")
    (Path(packages) / "sitecustomize.py").write_text(_SITECUSTOMIZE)
