"""Command lines of the jobs and of `longva`: typed options whose defaults come from a recipe.

`parse(Options)` makes the command line from a frozen dataclass. It may have a field `recipe`, and
stages of a recipe by name (`encode`, `serve`). `--encode.sampling uniform:128` then changes one
setting of the recipe that `--recipe` names."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from longva_ray.files.places import model_place
from longva_ray.recipes import checkpoint_of, get_recipe

OptionsT = TypeVar("OptionsT")


def parse(options: type[OptionsT], arguments: Sequence[str] | None = None) -> OptionsT:
    """Options from a command line; exits with an explanation when they are wrong."""
    return tyro.cli(options, args=arguments, default=starting_point(options, arguments))


def starting_point(options: type[OptionsT], arguments: Sequence[str] | None = None) -> OptionsT:
    """Options as the recipe that the command line names has them; exits with an explanation when
    there is no such recipe."""
    chosen = argparse.ArgumentParser(add_help=False)
    chosen.add_argument("--recipe", default="tiny")
    name = chosen.parse_known_args(arguments)[0].recipe
    try:
        return recipe_defaults(options, name)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error


def recipe_defaults(options: type[OptionsT], recipe_name: str) -> OptionsT:
    """Options with the settings of a recipe. A field that has no default, neither its own nor the
    recipe's, must still be given on the command line.

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


def find_checkpoint(model: str | None, recipe_name: str) -> str:
    """The checkpoint that was asked for, or else the recipe's.

    Raises ValueError when there is neither.
    """
    return model_place(model) if model else checkpoint_of(get_recipe(recipe_name))


def find_base(model: str | None, recipe_name: str) -> str:
    """The model whose language half is extended: the one that was asked for, the recipe's base, or
    its LongVA checkpoint.

    Raises ValueError when there is none.
    """
    recipe = get_recipe(recipe_name)
    return model_place(model or recipe.base or checkpoint_of(recipe))
