"""What the tests with Ray share: one cluster for the whole session, and a server that speaks S3."""

from collections.abc import Iterator

import boto3
import pytest
import ray
from moto.server import ThreadedMotoServer

from longva_ray.cluster.job import hide_gpus_from_cpu_workers


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
