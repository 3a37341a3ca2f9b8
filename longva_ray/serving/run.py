"""Start the application on the connected Ray cluster, and keep it up until it is stopped."""

import logging
import signal
import threading

from ray import serve
from ray.serve.config import HTTPOptions

from longva_ray.serving.app import build_app
from longva_ray.serving.app_args import AppArgs
from longva_ray.serving.ray_serve_internals import listening_at

logger = logging.getLogger(__name__)

APPLICATION = "longva"


def deploy(args: AppArgs) -> str:
    """Deploy, wait until every replica is ready, and return the base URL.

    Raises ValueError when the cluster serves the application already, or listens elsewhere for
    another one."""
    app = build_app(args)
    http = HTTPOptions(host=args.serve.host, port=args.serve.port)
    # `request_log` has a line for each request; Ray's would be one more for each process it meets.
    logging_config = {"log_level": args.serve.log_level, "enable_access_log": False}
    serve.start(http_options=http, logging_config=logging_config)
    if APPLICATION in serve.status().applications:
        raise ValueError(
            "this cluster serves longva_ray already; stop that server (Ctrl-C or `ray job stop`), "
            "or take it down with `serve shutdown` if its process is gone"
        )
    # Ray Serve listens at one address: the first that was asked for. `start` only warns of another.
    host, port = listening_at()
    if (host, port) != (http.host, http.port):
        raise ValueError(
            f"Ray Serve of this cluster listens on {host}:{port} already, not on "
            f"{http.host}:{http.port}; give --serve.host {host} --serve.port {port}, or run "
            "`serve shutdown` first, which ends everything that it serves"
        )
    try:
        serve.run(app, name=APPLICATION, route_prefix="/")
    except BaseException:
        serve.delete(APPLICATION)
        raise
    return f"http://{args.serve.host}:{args.serve.port}"


def serve_until_stopped(args: AppArgs) -> None:
    """Deploy and stay until Ctrl-C or `ray job stop` (SIGTERM), then take the application down."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        url = deploy(args)
        logger.info("serving %s at %s (API description: %s/docs)", args.model_name, url, url)
        try:
            threading.Event().wait()
        finally:
            logger.info("stopping: taking the application down")
            serve.delete(APPLICATION)
    except KeyboardInterrupt:
        return
