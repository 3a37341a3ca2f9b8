"""`longva`: the commands for a person at one machine. Clusters are used through `jobs/`.

Each command is a file of `longva_ray.commands`: its `Options` and what they `run`. Only the command
that is called is imported, so `longva --help` does not wait for torch and Ray.
"""

import importlib
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from types import ModuleType
from typing import Annotated, Any

import tyro

from longva_ray.cluster.job import run_job

COMMANDS = {
    "demo": "Encode a video into shards and ask about it over HTTP.",
    "ask": "Answer a question about a video.",
    "show": "Ask several videos, and write frames, questions and answers as a page.",
    "serve": "Serve chat and scoring by HTTP.",
    "verify": "Compare every shard of a store with its digest.",
    "join": "Join a language model and a vision tower into one checkpoint, ready for alignment.",
    "split": "Split a LongVA checkpoint into its language model and its vision tower.",
    "plan": "Memory of a training step, and the longest sequence that fits.",
}

DESCRIPTION = """Eyes for very long videos. `longva COMMAND --help` lists the options of a command.
Commands for a cluster are in jobs/; docs/cluster.md shows how to start one."""


@dataclass(frozen=True)
class _NotCalled:
    """Takes the place of the options of a command that is not called."""


def parse(arguments: Sequence[str]) -> tuple[ModuleType, Any]:
    """The command that is called and its options. Exits with an explanation when they are wrong, or
    with the help that was asked for."""
    called = arguments[0] if arguments else ""
    command: Any = None
    choices: list[Any] = []
    for name, does in COMMANDS.items():
        if name == called:
            from longva_ray.options import starting_point

            command = importlib.import_module(f"longva_ray.commands.{name}")
            default = starting_point(command.Options, arguments)
            subcommand = tyro.conf.subcommand(name, default=default)
            choices.append(Annotated[command.Options, subcommand])
        else:
            choices.append(Annotated[_NotCalled, tyro.conf.subcommand(name, description=does)])
    options = tyro.cli(
        reduce(or_, choices),
        prog="longva",
        description=DESCRIPTION,
        args=arguments,
    )
    return command, options


def main() -> None:
    """Entry point of the `longva` command."""
    from rich.console import Console
    from rich.logging import RichHandler

    def run() -> int:
        command, options = parse(sys.argv[1:])
        return int(command.run(options))

    handler = RichHandler(console=Console(stderr=True), show_path=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    run_job(run)


if __name__ == "__main__":
    main()
