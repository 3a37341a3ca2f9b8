"""What Ray Serve knows and has no public name for. Everything private that we use of it is here.

`tests/cluster/serving/test_ray_serve_internals.py` fails when Ray Serve moves it.
"""

from ray.serve.context import _get_global_client


def listening_at() -> tuple[str, int]:
    """Host and port at which Ray Serve of the connected cluster listens. It must be running.

    `serve.status()` does not tell, and the REST API that does needs a dashboard.
    """
    client = _get_global_client()
    assert client is not None, "Ray Serve is not running"
    config = client.http_config
    return config.host, config.port
