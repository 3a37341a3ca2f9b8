"""`longva plan`: the memory plan of a recipe as tables, or as JSON.

Takes the model's shape and the training switches from the recipe, the machines from the command
line. Reads configs only: no weights, no network.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from longva_ray.planner.limit import Limit, bytes_at, limit_of
from longva_ray.planner.memory import GIB, Budget, longest, peak, terms
from longva_ray.planner.setup import ModelShape, Setup, VisionShape
from longva_ray.planner.switches import switches
from longva_ray.settings.recipe import Recipe
from longva_ray.settings.training import ExtendConfig, PreferConfig

PAPERS_MODEL = "lmms-lab/LongVA-7B"
"""On the hub; its architecture is the default of `LongVAConfig`, so nothing is fetched."""

_UNITS = {"MIB": 2**20, "GIB": 2**30, "TIB": 2**40, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What a training step needs, what fits, and which switch buys what; nothing is run."""

    recipe: str = "tiny"
    """Named set-up whose model and training switches are planned."""
    stage: Literal["extend", "prefer"] = "extend"
    """Text extension, or preference tuning, where a sequence is a pair: its prompt twice, with both
    answers."""
    model: str | None = None
    """Folder with the config.json of another model."""
    gpus: int = 8
    gpu_memory: str = "80GiB"
    """Memory of one GPU."""
    host_memory: str | None = None
    """Memory of one node's host; None does not limit it."""
    gpus_per_node: int = 8
    ring_size: int | None = None
    """GPUs that share one sequence; None means all, for preferences what `--prefer.ring-size`
    says."""
    length: int | None = None
    """Tokens of the sequence that the table is for; None means the recipe's longest."""
    json: bool = False
    """Print JSON instead of tables."""
    extend: ExtendConfig
    prefer: PreferConfig


def bytes_of(text: str) -> float:
    """`80GiB`, `1.5TB` -> bytes. Raises ValueError for anything else."""
    match = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]i?B)\s*", text, re.IGNORECASE)
    if match is None or match[2].upper() not in _UNITS:
        raise ValueError(f"want a size like 80GiB or 1.5TB, got {text!r}")
    return float(match[1]) * _UNITS[match[2].upper()]


def planned_config(model: str | None) -> Any:
    """Config of the language model in a folder, LongVA or plain; of the paper's by its name.

    Raises ValueError for a folder without a config, and other names on the hub.
    """
    from longva_ray.lm.language_model import language_config
    from longva_ray.lm.longva_config import LongVAConfig

    if model == PAPERS_MODEL:
        return LongVAConfig().text
    if model is None:
        raise ValueError(
            "the architecture of this recipe is not part of this package; give --model FOLDER with "
            "its config.json"
        )
    if not (Path(model) / "config.json").is_file():
        raise ValueError(f"want a folder with a config.json, got {model!r}")
    return language_config(model)


def planned_setup(options: PlanOptions, recipe: Recipe) -> tuple[Setup, int]:
    """What is planned, and the longest sequence of the recipe in tokens.

    Raises ValueError as `make_plan`.
    """
    if options.prefer.num_workers != recipe.prefer.num_workers:
        raise ValueError("a plan takes --gpus, not the number of workers of --prefer")
    for name in ("num_workers", "ring_size"):
        if getattr(options.extend, name) != getattr(recipe.extend, name):
            raise ValueError("a plan takes --gpus and --ring-size, not those of --extend")
    place = options.model or recipe.checkpoint
    model = ModelShape.of(planned_config(place))
    if options.stage == "extend":
        setup = Setup(
            model=model,
            gpus=options.gpus,
            train=options.extend,
            ring_size=options.ring_size or options.gpus,
        )
        return setup, options.extend.max_tokens
    ring_size = options.ring_size or options.prefer.ring_size
    # How many rings there are, the plan itself knows.
    train = dataclasses.replace(options.prefer, num_workers=ring_size, ring_size=ring_size)
    setup = Setup(model=model, gpus=options.gpus, train=train, ring_size=ring_size)
    setup = dataclasses.replace(setup, vision=VisionShape.of(planned_longva(place)))
    return setup, 2 * recipe.preferences.max_tokens


def planned_longva(model: str | None) -> Any:
    """Config of a LongVA checkpoint, for a stage that sees; of the paper's by its name.

    Raises ValueError for a model without eyes.
    """
    from longva_ray.lm.layout import load_longva_config
    from longva_ray.lm.longva_config import LongVAConfig

    return LongVAConfig() if model == PAPERS_MODEL else load_longva_config(str(model))


def make_plan(options: PlanOptions, recipe: Recipe) -> dict[str, Any]:
    """Everything that the tables show, in bytes and tokens.

    Raises ValueError for a model that is not there and options that do not fit each other.
    """
    setup, longest_length = planned_setup(options, recipe)
    host = None
    if options.host_memory is not None:
        host = bytes_of(options.host_memory) / min(options.gpus, options.gpus_per_node)
    budget = Budget(gpu=bytes_of(options.gpu_memory), host=host)
    length = options.length or longest_length
    found = terms(setup, -(-length // setup.ring_size))
    gpu, host_needed = peak(found)
    limit = limit_of(setup, budget)
    return {
        "stage": options.stage,
        "model": dataclasses.asdict(setup.model),
        "gpus": setup.gpus,
        "ring_size": setup.ring_size,
        "length": length,
        "terms": [dataclasses.asdict(term) for term in found],
        "peak_gpu": gpu,
        "usable_gpu": budget.usable_gpu,
        "host_per_gpu": host_needed,
        "host_limit_per_gpu": host,
        "fits": budget.holds(found),
        "longest": longest(setup, budget),
        "limit": limit and dataclasses.asdict(limit) | {"said": describe_limit(limit)},
        "switches": [
            {
                "switch": switch.name,
                "option": switch.option,
                "option_off": switch.option_off,
                "trade": switch.trade,
                "off": longest(switch.off, budget),
                "on": longest(switch.on, budget),
            }
            for switch in switches(setup)
        ],
    }


def print_plan(plan: dict[str, Any], console: Console) -> None:
    """Two tables: the terms at one length, and the longest sequence by switch."""
    model = plan["model"]
    sequence = "pair of answers with its prompt twice," if plan["stage"] == "prefer" else "sequence"
    title = (
        f"{model['parameters'] / 1e9:.2f}B parameters, {plan['gpus']} GPUs in rings of "
        f"{plan['ring_size']}, one {sequence} of {plan['length']:,} tokens"
    )
    table = Table(title=title)
    for column in ("what", "when", "formula"):
        table.add_column(column)
    for column in ("GiB a GPU", "GiB of host a GPU"):
        table.add_column(column, justify="right")
    for term in plan["terms"]:
        cells = (f"{term[place] / GIB:.2f}" if term[place] else "" for place in ("gpu", "host"))
        table.add_row(term["name"], term["moment"], term["formula"], *cells)
    table.add_section()
    needed = (plan["peak_gpu"], plan["host_per_gpu"])
    table.add_row("held + the largest moment", "", "", *(f"{n / GIB:.2f}" for n in needed))
    limit = plan["host_limit_per_gpu"]
    limits = (f"{plan['usable_gpu'] / GIB:.2f}", "" if limit is None else f"{limit / GIB:.2f}")
    table.add_row("usable", "", "", *limits)
    console.print(table)
    console.print(
        f"{plan['length']:,} tokens {'fit' if plan['fits'] else 'do not fit'}; the longest "
        f"sequence that fits: {plan['longest']:,} tokens"
    )
    if plan["limit"]:
        console.print(plan["limit"]["said"])
    table = Table(title="longest sequence by switch, all else as planned")
    table.add_column("switch")
    for column in ("off", "on"):
        table.add_column(column, justify="right")
    for column in ("turned on by", "what it trades"):
        table.add_column(column)
    for row in plan["switches"]:
        sides = (f"{row[side]:,}" for side in ("off", "on"))
        table.add_row(row["switch"], *sides, row["option"], row["trade"])
    console.print(table)


def describe_limit(limit: Limit) -> str:
    """Whose memory a longer sequence runs out of, what fills it, and what makes room."""
    memory = "GPU memory" if limit.place == "gpu" else "host memory"
    filled = ", ".join(
        f"{term.name} {bytes_at(term, limit.place) / GIB:.2f}" for term in limit.largest
    )
    text = (
        f"A longer one runs out of {memory}: each GPU needs {limit.needed / GIB:.2f} GiB "
        f"of {limit.usable / GIB:.2f} that are usable. What takes most, in GiB: {filled}."
    )
    if not limit.remedies:
        more = "more GPUs or larger ones" if limit.place == "gpu" else "hosts with more memory"
        return f"{text} No option makes it longer; {more} would."
    options = "; ".join(f"{each.option} ({each.longest:,} tokens)" for each in limit.remedies)
    return f"{text} Longer by one of: {options}."
