"""Command lines of the jobs and of `longva`: typed options whose defaults come from a recipe, and
paths that stay put.

`parse(Options)` makes the command line from a frozen dataclass with the fields `recipe`, and any of
the recipe's stages by name (`encode`, `serve`); `--encode.sampling uniform:128` then changes one
setting of the recipe chosen by `--recipe`."""

import argparse
import dataclasses
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.fs
import tyro

from longva_ray.filesystem import file_name, is_uri, list_folder, resolve
from longva_ray.recipes import checkpoint_of, get_recipe

logger = logging.getLogger(__name__)

OptionsT = TypeVar("OptionsT")

_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""What Ray sets in the driver of a submitted job."""

VIDEO_SUFFIXES = {
    *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".flv", ".wmv", ".asf"),
    *(".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".ogv"),
}


def parse(options: type[OptionsT], arguments: Sequence[str] | None = None) -> OptionsT:
    """Options of a job from its command line; exits with an explanation when they are wrong."""
    chosen = argparse.ArgumentParser(add_help=False)
    chosen.add_argument("--recipe", default="tiny")
    name = chosen.parse_known_args(arguments)[0].recipe
    try:
        defaults = recipe_defaults(options, name)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    return tyro.cli(options, args=arguments, default=defaults)


def recipe_defaults(options: type[OptionsT], recipe_name: str) -> OptionsT:
    """Options with the recipe's settings filled in and everything without a default still asked
    for.

    Raises ValueError for an unknown recipe.
    """
    recipe = get_recipe(recipe_name)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        if field.name == "recipe":
            values["recipe"] = recipe.name
        elif dataclasses.is_dataclass(stage := getattr(recipe, field.name, None)):
            values[field.name] = stage
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            values[field.name] = tyro.MISSING
    return options(**values)


def find_videos(places: Sequence[str]) -> list[str]:
    """Video files of a list of files and folders, each a path or a URI (a folder gives its videos,
    sorted by name).

    Files are taken whatever their suffix and need not exist: the run's report says what is wrong
    with them. What of a folder is left out, other files and folders inside, is counted in the log.

    Raises ValueError when a folder holds no videos.
    """
    found: list[str] = []
    for place in places:
        place = absolute(place)
        inside = None if _is_video_name(place) and is_uri(place) else list_folder(place)
        if inside is None:
            found.append(place)
            continue
        videos = [file for file in inside if _is_video_name(file)]
        others, folders = len(inside) - len(videos), _count_folders(place)
        left_out = f"{others} other file(s) and {folders} folder(s)"
        if not videos:
            raise ValueError(
                f"no videos ({', '.join(sorted(VIDEO_SUFFIXES))}) in folder {place}, but "
                f"{left_out}; name the files, or the folder that they are in"
            )
        if others or folders:
            logger.warning(
                "%s gives %d video(s); %s are left out: name them if they hold videos, too",
                place,
                len(videos),
                left_out,
            )
        found.extend(videos)
    return found


def _count_folders(place: str) -> int:
    filesystem, path = resolve(place)
    inside = filesystem.get_file_info(pyarrow.fs.FileSelector(path))
    return sum(entry.type == pyarrow.fs.FileType.Directory for entry in inside)


def _is_video_name(place: str) -> bool:
    return Path(file_name(place)).suffix.lower() in VIDEO_SUFFIXES


def absolute(place: str) -> str:
    """A path as every worker sees it; URLs stay as they are.

    Workers run in other folders, so relative paths are resolved here, in the driver. A submitted
    job's driver itself runs in a temporary copy of the working directory that Ray deletes, where a
    relative path would lose the output.

    Raises ValueError for a relative path in a submitted job.
    """
    if is_uri(place):
        return place
    path = Path(place).expanduser()
    if not path.is_absolute() and _has_working_dir():
        raise ValueError(
            f"{place!r} is relative, but this is a submitted job, whose folder is a temporary "
            "copy; give an absolute path or a URI that every node can reach"
        )
    return str(path.absolute())


def local_path(place: str) -> Path:
    """Where a report goes: an absolute path of this machine.

    Raises ValueError for a URI, or for a relative path in a submitted job.
    """
    if is_uri(place):
        raise ValueError(
            f"{place!r} is a URI, but reports and figures are written to a disk; give a path, and "
            "copy the results from there"
        )
    return Path(absolute(place))


def model_place(model: str) -> str:
    """A checkpoint as every worker finds it: a folder that is here by its absolute path, anything
    else, such as a Hugging Face id, as it is."""
    return absolute(model) if Path(model).expanduser().exists() else model


def find_checkpoint(model: str | None, recipe_name: str) -> str:
    """The checkpoint that was asked for, or else the recipe's.

    Raises ValueError when neither is there.
    """
    return model_place(model) if model else checkpoint_of(get_recipe(recipe_name))


def find_base(model: str | None, recipe_name: str) -> str:
    """The causal language model that was asked for, or else the one the recipe extends.

    Raises ValueError when neither is there.
    """
    base = model or get_recipe(recipe_name).base
    if base is None:
        raise ValueError(f"recipe {recipe_name} has no base model; give one with --model")
    return model_place(base)


def hide_gpus_from_cpu_workers() -> None:
    """Let workers that ask for no GPU see none, in a cluster that this process starts; one that
    runs already decides for itself (cluster.yaml)."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")


def run_job(main: Callable[[], int]) -> None:
    """Run a job's main function and turn a user's mistake into one line and a nonzero exit
    status."""
    hide_gpus_from_cpu_workers()
    try:
        status = main()
    except (ValueError, FileNotFoundError) as error:
        logger.debug("the error came from", exc_info=True)
        raise SystemExit(f"error: {error}") from error
    raise SystemExit(status)


def is_job() -> bool:
    """Whether this process was started by `ray job submit`."""
    return _JOB_CONFIG in os.environ


def _has_working_dir() -> bool:
    """Whether this is a submitted job that runs in a temporary copy of a folder."""
    config = json.loads(os.environ.get(_JOB_CONFIG, "{}"))
    return bool(config.get("runtime_env", {}).get("working_dir"))
