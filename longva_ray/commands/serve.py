"""`longva serve` and `jobs/serve.py`: what a person may say about a server.

options + $LONGVA_API_KEY -> AppArgs, with every path resolved
"""

import ipaddress
import os
from dataclasses import dataclass

from longva_ray.cluster.job import start_ray_quietly
from longva_ray.files.places import absolute
from longva_ray.options import find_checkpoint
from longva_ray.recipes import get_recipe
from longva_ray.serving.app_args import AppArgs
from longva_ray.settings.answering import ServeConfig
from longva_ray.settings.encoding import EncodeConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Serve chat and scoring over encoded videos by HTTP. An API key comes from $LONGVA_API_KEY."""

    store: str = "outputs/shards"
    """Folder or URI of the shards."""
    recipe: str = "tiny"
    """Named set-up that everything else starts from: tiny or longva_7b."""
    model: str | None = None
    """Checkpoint instead of the recipe's: a folder or a Hugging Face id."""
    allowed_roots: tuple[str, ...] = ()
    """Folders whose videos clients may name by file:// URLs."""
    encode: EncodeConfig
    serve: ServeConfig

    def app_args(self) -> AppArgs:
        """What the application has to be told, with every path resolved.

        Raises ValueError for settings that only the batch job follows, and for an address that
        lets other machines in without a key."""
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


def run(options: Options) -> int:
    """Serve until Ctrl-C."""
    args = options.app_args()
    from longva_ray.serving.run import serve_until_stopped

    start_ray_quietly()
    serve_until_stopped(args)
    return 0


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
