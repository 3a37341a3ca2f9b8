"""`longva demo`: a video is encoded into shards, then asked about over HTTP."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from longva_ray.cluster.job import start_ray_quietly
from longva_ray.files.places import absolute, check_there
from longva_ray.recipes import checkpoint_of, get_recipe


@dataclass(frozen=True, kw_only=True)
class Options:
    """The whole path on this machine: encode a video into shards, then ask about it over HTTP."""

    video: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[VIDEO]")] = None
    """A video of yours. Without one, the demo draws a video and hides letters and digits in it."""
    recipe: str = "tiny"
    """Named set-up: tiny or longva_7b."""
    folder: str = "outputs/demo"
    """Where the demo leaves everything it makes."""
    seed: int | None = None
    """Seed of the drawn video. Without one, every demo draws another video."""


def run(options: Options) -> int:
    """Run the demo; its results are in `options.folder`."""
    from rich.console import Console

    recipe = get_recipe(options.recipe)
    checkpoint_of(recipe)
    video = Path(absolute(options.video)) if options.video else None
    if video is not None:
        check_there([str(video)])
    console = Console()
    console.print(
        "Starting Ray on this machine. The demo takes about a minute and a half on two cores."
    )
    from longva_ray.workflows.demo import run_demo

    start_ray_quietly()
    run_demo(video, recipe, Path(absolute(options.folder)), console, seed=options.seed)
    return 0
