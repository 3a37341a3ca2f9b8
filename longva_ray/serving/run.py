"""Start the application on the connected Ray cluster and keep it up: what `longva serve` and
`jobs/serve.py` share."""

import dataclasses
import ipaddress
import logging
import os
import signal
import threading

from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client

from longva_ray.files.places import absolute
from longva_ray.options import find_checkpoint
from longva_ray.recipes import get_recipe
from longva_ray.serving.app import AppArgs, build_app
from longva_ray.settings.answering import ServeConfig
from longva_ray.settings.encoding import EncodeConfig

logger = logging.getLogger(__name__)


APPLICATION = "longva"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Serve chat and scoring over encoded videos by HTTP; an API key comes from $LONGVA_API_KEY."""

    store: str = "outputs/shards"
    """Folder or URI of the shards."""
    allowed_roots: tuple[str, ...] = ()
    """Folders whose videos clients may name by file:// URLs."""
    recipe: str = "tiny"
    """Named set-up that everything else starts from: tiny or longva_7b."""
    model: str | None = None
    """Checkpoint instead of the recipe's: a folder or a Hugging Face id."""
    encode: EncodeConfig
    serve: ServeConfig

    def app_args(self) -> AppArgs:
        """What the application has to be told, with every path resolved.

        Raises ValueError for settings that only the batch job follows, and for an address that
        other machines reach without a key."""
        usual = get_recipe(self.recipe).encode
        for name in ("decode_cpus", "encoder_gpus", "max_encoders"):
            if getattr(self.encode, name) != getattr(usual, name):
                raise ValueError(
                    f"--encode.{name.replace('_', '-')} is for the batch job and changes nothing "
                    "here: a server has one encoder, which decodes too; its share of a GPU is "
                    "--serve.encoder-gpus, its CPUs are --encode.encoder-cpus"
                )
        return AppArgs(
            model_name=self.recipe,
            checkpoint=find_checkpoint(self.model, self.recipe),
            store=absolute(self.store),
            allowed_roots=tuple(absolute(root) for root in self.allowed_roots),
            api_key=_api_key(self.serve.host),
            encode=self.encode,
            serve=self.serve,
        )


def _api_key(host: str) -> str | None:
    key = os.environ.get("LONGVA_API_KEY")
    if key == "":
        raise ValueError(
            "$LONGVA_API_KEY is empty, which protects nothing; set it to a secret, or unset it to "
            "serve everybody on this machine"
        )
    if key is None and not _is_loopback(host):
        raise ValueError(
            f"--serve.host {host} lets other machines in, and $LONGVA_API_KEY is not set; set it "
            "to a secret, or listen on 127.0.0.1"
        )
    return key


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def deploy(args: AppArgs) -> str:
    """Deploy, wait until every replica is ready, and return the base URL.

    Raises ValueError when the cluster serves the application already, or listens elsewhere for
    another one."""
    app = build_app(args)
    http = HTTPOptions(host=args.serve.host, port=args.serve.port)
    serve.start(http_options=http, logging_config={"log_level": args.serve.log_level})
    if APPLICATION in serve.status().applications:
        raise ValueError(
            "this cluster serves longva_ray already; stop that server (Ctrl-C or `ray job stop`), "
            "or take it down with `serve shutdown` if its process is gone"
        )
    # Ray Serve listens at one address, that of who came first; `start` only warns of another.
    client = _get_global_client()
    assert client is not None, "it was started above"
    running = client.http_config
    if (running.host, running.port) != (http.host, http.port):
        raise ValueError(
            f"Ray Serve of this cluster listens on {running.host}:{running.port} already, not on "
            f"{http.host}:{http.port}; give --serve.host {running.host} --serve.port "
            f"{running.port}, or run `serve shutdown` first, which ends all that it serves"
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
