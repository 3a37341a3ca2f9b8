"""`longva plan`: from options to tables and JSON, without network or weights."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from longva_ray.options import parse
from longva_ray.planner.report import PlanOptions, bytes_of, make_plan, print_plan
from longva_ray.recipes import get_recipe


def plan_of(*arguments: str) -> dict[str, Any]:
    options = parse(PlanOptions, list(arguments))
    return make_plan(options, get_recipe(options.recipe))


def test_the_command_prints_json_without_network() -> None:
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from longva_ray.cli import main; main()",
            *("plan", "--recipe", "longva_7b", "--gpus", "8", "--gpu-memory", "80GiB", "--json"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HOME": "/nonexistent"},
    )
    assert run.returncode == 0, run.stderr
    plan = json.loads(run.stdout)
    assert plan["length"] == 224_000
    assert plan["fits"]
    assert plan["longest"] > 1_000_000


def test_tables_say_what_fits_and_what_switches_buy() -> None:
    plan = plan_of("--recipe", "longva_7b", "--host-memory", "4TiB")
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    print_plan(plan, console)
    text = console.export_text()
    for words in ("224,000 tokens fit", "optimizer and master weights", "checkpoints on the host"):
        assert words in text
    rows = {row["switch"]: (row["off"], row["on"]) for row in plan["switches"]}
    for name in ("tiled loss", "checkpoints on the host", "tiled MLPs", "ring of 8"):
        assert rows[name][0] < rows[name][1], name
    # The set-up as planned is one side of every switch.
    assert all(plan["longest"] in sides for sides in rows.values())


def test_preference_tuning_is_planned_by_pairs() -> None:
    def plan(*arguments: str) -> dict[str, Any]:
        return plan_of("--recipe", "longva_7b", "--stage=prefer", "--prefer.no-offload", *arguments)

    def weights(of: dict[str, Any], name: str) -> float:
        return sum(term["gpu"] + term["host"] for term in of["terms"] if term["name"] == name)

    plain, live, tower = plan(), plan("--prefer.reference", "live"), plan("--prefer.train", "all")
    assert (plain["ring_size"], plain["length"]) == (1, 65_536)
    assert plain["longest"] > live["longest"] > 10_000
    assert plain["longest"] > tower["longest"] > 10_000
    language = 2 * 7_615_616_512 / 8  # bytes of bfloat16 weights on each of 8 GPUs
    encoder = weights(plain, "weights that do not learn")
    assert weights(live, "weights that do not learn") == language + encoder
    assert weights(tower, "weights") == language + encoder
    shared = plan("--prefer.ring-size", "8", "--prefer.tile-mlps")
    assert shared["ring_size"] == 8
    assert shared["longest"] > 6 * plain["longest"]
    with pytest.raises(ValueError, match="not the number of workers of --prefer"):
        plan("--prefer.num-workers", "4")


@pytest.mark.parametrize("stage", ["extend", "prefer"])
def test_switches_are_named_as_they_are_typed_and_explained(stage: str) -> None:
    plan = plan_of("--recipe", "longva_7b", "--host-memory", "256GiB", "--stage", stage)
    options = [row["option"] for row in plan["switches"]]
    typed = [option for option in options if option.startswith("--")]
    assert len(options) - len(typed) == (2 if stage == "extend" else 1)  # those are always on
    parse(PlanOptions, " ".join(typed).split())  # exits at an unknown one
    for row in plan["switches"]:
        if row["off"] > row["on"]:
            assert "longer without" in row["trade"], row
    # With so little host memory, what fills the host is among them.
    assert any(row["off"] > row["on"] and "host" in row["trade"] for row in plan["switches"])


def test_host_memory_limits_too() -> None:
    free, tight = (
        plan_of("--recipe", "longva_7b", "--host-memory", size)["longest"]
        for size in ("4TiB", "384GiB")
    )
    assert 224_000 < tight < free


@pytest.mark.parametrize(
    ("arguments", "memory", "option"),
    [
        ("--host-memory 128GiB", "host memory", "--extend.no-offload-activations"),
        ("--gpu-memory 24GiB", "GPU memory", "--extend.tile-mlps"),
    ],
)
def test_what_ran_out_is_named_and_the_remedy_is_true(
    arguments: str, memory: str, option: str
) -> None:
    planned = ("--recipe", "longva_7b", *arguments.split())
    plan = plan_of(*planned)
    limit = plan["limit"]
    assert f"runs out of {memory}" in limit["said"]
    assert limit["needed"] > limit["usable"]
    best = limit["remedies"][0]
    assert best["option"] == option
    assert f"{option} ({best['longest']:,} tokens)" in limit["said"]
    assert plan_of(*planned, option)["longest"] == best["longest"] > plan["longest"]


def test_what_no_option_mends_is_said() -> None:
    said = plan_of("--recipe", "longva_7b", "--gpu-memory", "8GiB")["limit"]["said"]
    assert said.endswith("No option makes it longer; more GPUs or larger ones would.")


def test_a_folder_with_a_config_is_enough(tmp_path: Path, tiny_checkpoint: str) -> None:
    from transformers import LlamaConfig

    LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=1, vocab_size=64
    ).save_pretrained(tmp_path)
    plan = plan_of("--model", str(tmp_path), "--gpus", "2")
    assert plan["model"]["width"] == 64
    own = plan_of("--recipe", "longva_7b", "--model", tiny_checkpoint)["model"]
    assert (own["width"], own["words"]) == (128, 664)  # of its language model, without the tower


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="80GiB"):
        bytes_of("80 apples")
    assert bytes_of("1.5TB") == 1.5e12
    with pytest.raises(ValueError, match="--model FOLDER"):
        plan_of("--recipe", "smollm2")
    with pytest.raises(ValueError, match=r"config\.json"):
        plan_of("--model", "/nonexistent")
