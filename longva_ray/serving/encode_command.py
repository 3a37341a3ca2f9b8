"""The command that encodes a video as a server reads it: what a client is told whose video is
missing."""

import dataclasses
import shlex
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlparse

from longva_ray.files.places import is_uri
from longva_ray.recipes import RECIPES, get_recipe
from longva_ray.serving.app_args import AppArgs
from longva_ray.shards.schema import EncodingSpec

SHOWN_URI_OPTIONS = ("scheme", "region", "endpoint_override")


def encode_command(args: AppArgs) -> str:
    """What encodes a video as this server reads it, ready for a shell.

    Clients get to read it. So credentials in the store's URI are left out, and all options of the
    URI that might be credentials.
    """
    recipe = get_recipe(args.model_name if args.model_name in RECIPES else "tiny")
    options: dict[str, Any] = {"videos": "FILE", "store": args.store, "recipe": recipe.name}
    if is_uri(args.store):
        place = urlparse(args.store)
        shown = [pair for pair in parse_qsl(place.query) if pair[0] in SHOWN_URI_OPTIONS]
        options["store"] = place._replace(
            netloc=place.netloc.rpartition("@")[2], query=urlencode(shown)
        ).geturl()
    if args.checkpoint != recipe.checkpoint:
        options["model"] = args.checkpoint
    for field in dataclasses.fields(EncodingSpec):
        value = getattr(args.encode, field.name, None)
        if value != getattr(recipe.encode, field.name, None):
            options[f"encode.{field.name.replace('_', '-')}"] = value
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return shlex.join(["python", "jobs/encode_videos.py", *words])
