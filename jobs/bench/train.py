"""How fast text extension trains: tokens/s, MFU and seconds a step, as a table from one run.

    python jobs/bench/train.py                          two CPU workers of one thread each
    python jobs/bench/train.py --model HuggingFaceTB/SmolLM2-135M-Instruct --tokens 32768 \\
        --workers 8 --gpus-per-worker 1 --dtype bfloat16 --zero-stage 1 --checkpoint-activations

Every row trains the same architecture, from random weights, on the same sequences. Rows differ only
in how workers share them: one worker alone, all of them as one ring, all of them apart. So one
worker must have room for the model.
"""

import json
import logging
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig

from longva_ray.cluster.job import run_job
from longva_ray.data.text.pipeline import prepare_text
from longva_ray.files.places import local_path
from longva_ray.lm.gguf import prepare_base
from longva_ray.options import parse
from longva_ray.settings.data import TextDataConfig
from longva_ray.settings.training import ExtendConfig
from longva_ray.tiny.base_model import write_base
from longva_ray.train.run.launch import train
from longva_ray.train.stages.text import TextStage

SMALL = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "head_dim": 64,
    "num_key_value_heads": 2,
}
"""Layers large enough for a core to be busy with: 18M parameters."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure training."""

    folder: str = "outputs/bench_train"
    """For data and runs; emptied first."""
    model: str | None = None
    """Language model whose architecture is trained; none: a Llama of 18M parameters."""
    tokens: int = 2048
    """Length of a sequence, which is one document."""
    steps: int = 5
    """Steps of each row; the first one is not counted."""
    workers: int = 2
    """At least 2; also the number of sequences in a step."""
    gpus_per_worker: float = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    zero_stage: Literal[0, 1, 2, 3] = 0
    checkpoint_activations: bool = False

    def __post_init__(self) -> None:
        if self.workers < 2 or self.steps < 2:
            raise ValueError(
                f"nothing to compare with {self.workers} workers and {self.steps} steps; give at "
                "least 2 of each"
            )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run: how workers shared the sequences, and how fast it was."""

    how: str
    workers: int
    ring_size: int
    seconds: float
    """A step, median."""
    tokens_per_second: float
    """Of one worker."""
    mfu: float
    """Model FLOPs over those of a matrix product measured on the same workers."""


def write_model(folder: Path) -> str:
    """A folder with the small architecture and the tiny world's tokenizer."""
    write_base(folder)
    config = LlamaConfig.from_pretrained(folder)
    config.update(SMALL)
    config.save_pretrained(folder)
    return str(folder)


def write_shards(options: Options, base: str, folder: Path) -> str:
    """As many sequences as are trained on, in words that all tokenizers cut alike."""
    phrase, phrase_tokens = "the star red. ", 4
    rows = options.steps * options.workers + 1
    text = phrase * (rows * options.tokens // phrase_tokens + 1)
    (folder / "text.jsonl").write_text(json.dumps({"text": text}) + "\n")
    config = TextDataConfig(
        sequence_length=options.tokens, upsample_factor=1, domain_field=None, task_cpus=0.5
    )
    prepare_text(
        [str(folder / "text.jsonl")], output=str(folder / "shards"), checkpoint=base, config=config
    )
    return str(folder / "shards")


def measure(
    options: Options, base: str, folder: Path, *, how: str, num_workers: int, ring_size: int
) -> Row:
    """Train a few steps and read what every step recorded."""
    config = ExtendConfig(
        steps=options.steps,
        sequences_per_step=options.workers,
        max_tokens=options.tokens,
        from_scratch=True,
        dtype=options.dtype,
        zero_stage=options.zero_stage,
        offload=False,
        checkpoint_activations=options.checkpoint_activations,
        offload_activations=False,
        num_workers=num_workers,
        ring_size=ring_size,
        gpus_per_worker=options.gpus_per_worker,
        checkpoint_every=options.steps,
        max_failures=0,
        trackers=(),
    )
    name = f"workers-{num_workers}-ring-{ring_size}"
    stage = TextStage(config, base=base, shards=str(folder / "shards"))
    outcome = train(stage, config, storage=str(folder / "runs"), name=name, documents={})
    if outcome.status != "finished" or not outcome.peak_flops:
        raise ValueError(f"{how}: {outcome.status}. {outcome.message}")
    lines = (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
    steps: list[dict[str, Any]] = [json.loads(line) for line in lines][1:]
    seconds = statistics.median(step["seconds"] for step in steps)
    return Row(
        how=how,
        workers=num_workers,
        ring_size=ring_size,
        seconds=seconds,
        tokens_per_second=steps[0]["tokens"] / seconds / num_workers,
        mfu=steps[0]["flops"] / seconds / num_workers / outcome.peak_flops,
    )


def main() -> int:
    options = parse(Options)
    folder = local_path(options.folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ray.init(ignore_reinit_error=True)
    base = (
        prepare_base(options.model, folder / "base")
        if options.model
        else write_model(folder / "base")
    )
    write_shards(options, base, folder)
    rows = [
        measure(options, base, folder, how=how, num_workers=num_workers, ring_size=ring_size)
        for how, num_workers, ring_size in (
            ("one worker", 1, 1),
            ("one ring", options.workers, options.workers),
            ("data-parallel", options.workers, 1),
        )
    ]
    title = (
        f"{options.steps - 1} steps of {options.workers} x {options.tokens} tokens, {options.dtype}"
    )
    table = Table(title=title)
    for column in ("", "workers", "ring", "s a step", "over one", "tokens/s a worker", "MFU"):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows:
        table.add_row(
            row.how,
            str(row.workers),
            str(row.ring_size),
            f"{row.seconds:.2f}",
            f"{rows[0].seconds / row.seconds:.2f}x",
            f"{row.tokens_per_second:,.0f}",
            f"{row.mfu:.0%}",
        )
    Console().print(table)
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    run_job(main)
