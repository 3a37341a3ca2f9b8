"""What the tests with Ray share: one cluster for each test process, and a server that speaks S3."""

import shutil
import tempfile
from collections.abc import Iterator

import boto3
import pytest
import ray
from filelock import FileLock
from moto.server import ThreadedMotoServer
from ray.cluster_utils import Cluster

from longva_ray.cluster.job import hide_gpus_from_cpu_workers


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The Ray cluster of this test process; yields the address of its dashboard.

    `ray.init()` would start one whose job agent listens at a fixed port, so that two test processes
    could not run at the same time. And no command that is typed meanwhile may join this cluster:
    Ray notes the latest one in its temporary folder, so this one has its own.
    """
    hide_gpus_from_cpu_workers()
    # Not pytest's folder: the names of sockets in it would be too long.
    folder = tempfile.mkdtemp(prefix="ray-")
    # One after another: Ray gives up on a node that does not start within a minute.
    turn = FileLock(tmp_path_factory.getbasetemp().parent / "ray_cluster.lock")
    with turn, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 4,
                "object_store_memory": 512 * 2**20,
                "include_dashboard": True,
                "dashboard_port": None,
                "dashboard_agent_listen_port": None,
            },
        )
    context = ray.init(address=cluster.address)
    yield f"http://{context.dashboard_url}"
    ray.shutdown()
    cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


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
