"""What one GPU makes of the code under the jobs: every row beside a reference of the same run.

    python jobs/bench/gpu.py                 all of it, at the sizes of LongVA-7B
    python jobs/bench/gpu.py --quick         shorter sequences, fewer layers
    python jobs/bench/gpu.py --device cpu    tiny sizes, to see that every row still runs

Prints a table and writes it as JSON, with machine and versions. Weights are random. No Ray: besides
this package it needs torch and transformers; only the command line needs tyro.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import gpu_kernels
import gpu_model
import torch
import transformers
from gpu_sizes import FULL, QUICK, TINY, Reading, Sizes

PARTS: dict[str, Callable[[Sizes], Iterator[Reading]]] = {
    "kernels": gpu_kernels.kernel_rows,
    "rank": gpu_kernels.rank_rows,
    "loss": gpu_kernels.loss_rows,
    "step": gpu_model.step_rows,
    "memory": gpu_model.memory_rows,
    "answer": gpu_model.answer_rows,
    "encode": gpu_model.encode_rows,
    "parity": gpu_kernels.parity_rows,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Measure one GPU."""

    device: Literal["cuda", "cpu"] = "cuda"
    quick: bool = False
    parts: tuple[str, ...] = tuple(PARTS)
    """Which of the rows."""
    json: str = "outputs/bench_gpu.json"

    def __post_init__(self) -> None:
        if unknown := [part for part in self.parts if part not in PARTS]:
            raise ValueError(f"unknown parts {unknown}; choose of {list(PARTS)}")


def measure(options: Options) -> Iterator[Reading]:
    """Row by row."""
    sizes = TINY if options.device == "cpu" else QUICK if options.quick else FULL
    for part in options.parts:
        yield from PARTS[part](sizes)
        if options.device == "cuda":
            torch.cuda.empty_cache()


def machine(options: Options) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"device": name, "quick": options.quick, **versions}


def main() -> None:
    import tyro

    options = tyro.cli(Options)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: there is no CUDA device here; --device cpu runs tiny sizes")
    print(machine(options))
    readings = []
    for reading in measure(options):
        print(reading, flush=True)
        readings.append(dataclasses.asdict(reading))
    path = Path(options.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(options), "readings": readings}, indent=1))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
