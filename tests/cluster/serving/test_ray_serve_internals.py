"""What we use of Ray Serve without a public name is still there."""

from ray.serve import context
from ray.serve._private.client import ServeControllerClient
from ray.serve.config import HTTPOptions


def test_ray_serve_keeps_the_address_it_listens_at() -> None:
    moved = "serving/ray_serve_internals.py needs another way to learn where Ray Serve listens"
    assert callable(getattr(context, "_get_global_client", None)), moved
    assert isinstance(getattr(ServeControllerClient, "http_config", None), property), moved
    assert {"host", "port"} <= HTTPOptions.model_fields.keys(), moved
