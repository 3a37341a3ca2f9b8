"""Start the application on the connected Ray cluster and keep it up: what `longva serve` and
`jobs/serve.py` share."""

import dataclasses
import logging
import os
import signal
import threading

from ray import serve
from ray.serve.config import HTTPOptions

from longva_ray.config import EncodeConfig, ServeConfig
from longva_ray.options import absolute, find_checkpoint
from longva_ray.recipes import get_recipe
from longva_ray.serving.app import AppArgs, build_app

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

        Raises ValueError for settings that only the batch job follows."""
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
            api_key=_api_key(),
            encode=self.encode,
            serve=self.serve,
        )


def _api_key() -> str | None:
    key = os.environ.get("LONGVA_API_KEY")
    if key == "":
        raise ValueError(
            "$LONGVA_API_KEY is empty, which protects nothing; set it to a secret, or unset it to "
            "serve everybody who reaches the port"
        )
    return key


def deploy(args: AppArgs) -> str:
    """Deploy, wait until every replica is ready, and return the base URL.

    Raises ValueError when the cluster serves the application already."""
    app = build_app(args)
    http = HTTPOptions(host=args.serve.host, port=args.serve.port)
    serve.start(http_options=http, logging_config={"log_level": args.serve.log_level})
    if APPLICATION in serve.status().applications:
        raise ValueError(
            "this cluster serves longva_ray already; stop that server (Ctrl-C or `ray job stop`), "
            "or take it down with `serve shutdown` if its process is gone"
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
