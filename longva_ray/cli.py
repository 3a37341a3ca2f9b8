"""`longva`: the commands for a person at one machine. Clusters are used through `jobs/`."""

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.logging import RichHandler

from longva_ray.cluster.job import run_job
from longva_ray.files.places import absolute
from longva_ray.options import find_checkpoint, parse
from longva_ray.recipes import get_recipe
from longva_ray.settings.answering import GenerationSettings
from longva_ray.settings.base import Dtype
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.video.fitting import Fitting
from longva_ray.vision.encoding import Encoding
from longva_ray.vision.projector import ProjectorKind
from longva_ray.vision.unires import GridRule


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The main job end to end: a video is encoded into shards, then asked about over HTTP."""

    video: Annotated[str | None, tyro.conf.Positional] = None
    """A video of yours; without one, a haystack with hidden letters and digits is made."""
    recipe: str = "tiny"
    """Named set-up: tiny or longva_7b."""
    folder: str = "outputs/demo"
    """Where everything that the demo makes is left."""
    seed: int | None = None
    """Of the haystack; without one, every demo has another."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """Encode a video unless it already is, and answer a question about it."""

    video: Annotated[str, tyro.conf.Positional]
    question: Annotated[str, tyro.conf.Positional]
    recipe: str = "tiny"
    """Named set-up: tiny or longva_7b."""
    model: str | None = None
    """Checkpoint instead of the recipe's: a folder or a Hugging Face id."""
    store: str = "outputs/shards"
    """Folder or URI of the shards."""
    max_new_tokens: int = 256
    temperature: float = 0.0
    dtype: Dtype | None = None
    """Number format of the language model; None is the recipe's."""
    max_prompt_tokens: int | None = None
    """Longest prompt, visual tokens included; None leaves the checkpoint's own limit."""
    encode: EncodeConfig


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Read every shard of a store and compare it with the digest that was written with it."""

    store: Annotated[str, tyro.conf.Positional]
    """Folder or URI of the shards."""


@dataclass(frozen=True, kw_only=True)
class Join:
    """Give a language model a vision tower: both join by a fresh projector, which alignment then
    trains (section 3.2)."""

    language_model: Annotated[str, tyro.conf.Positional]
    """A Qwen2- or Llama-shaped checkpoint: a folder or a Hugging Face id."""
    tower: Annotated[str, tyro.conf.Positional]
    """A CLIP checkpoint."""
    out: Annotated[Path, tyro.conf.Positional]
    """The new folder."""
    encoding: Encoding = "unires"
    """How images become grids; anyres is the paper's ablation."""
    grid_rule: GridRule = "paper"
    """Which numbers of grids UniRes allows: the paper's, or those of the released code."""
    frame_fitting: Fitting = "letterbox"
    """How a frame fits the square of the tower."""
    projector: ProjectorKind = "mlp"
    """The paper's two layers, or align: these and then an average of word embeddings (AlignVLM)."""
    dtype: Dtype = "bfloat16"
    """Number format of the saved weights."""
    seed: int = 0
    """Of the projector."""


def demo(arguments: list[str]) -> int:
    from longva_ray.workflows.demo import run_demo

    options = parse(Demo, arguments)
    _start_ray()
    video = Path(absolute(options.video)) if options.video else None
    recipe = get_recipe(options.recipe)
    run_demo(video, recipe, Path(absolute(options.folder)), Console(), seed=options.seed)
    return 0


def ask(arguments: list[str]) -> int:
    import ray

    from longva_ray.answer.engine import AnswerEngine, Question
    from longva_ray.shards.pipeline import encode_videos
    from longva_ray.shards.store import ShardStore

    options = parse(Ask, arguments)
    settings = GenerationSettings(
        max_new_tokens=options.max_new_tokens, temperature=options.temperature
    )
    checkpoint = find_checkpoint(options.model, options.recipe)
    store = ShardStore(absolute(options.store))
    _start_ray()
    report = encode_videos(
        [absolute(options.video)], store=store, checkpoint=checkpoint, config=options.encode
    )
    ray.shutdown()
    if report.failed:
        raise ValueError(f"cannot encode {options.video}: {report.failed[0].error}")
    video = store.open(report.videos[0].video_id, report.spec)
    usual = get_recipe(options.recipe).serve
    engine = AnswerEngine(
        checkpoint,
        dtype=options.dtype or usual.dtype,
        prefill_chunk=usual.prefill_chunk,
        max_prompt_tokens=options.max_prompt_tokens or usual.max_prompt_tokens,
    )
    content = [{"type": "video"}, {"type": "text", "text": options.question}]
    question = Question(messages=[{"role": "user", "content": content}], videos=[video.tokens()])
    for piece in engine.stream(engine.read(question), settings):
        print(piece.text, end="", flush=True)
    print()
    return 0


def serve(arguments: list[str]) -> int:
    from longva_ray.serving.run import ServeOptions, serve_until_stopped

    options = parse(ServeOptions, arguments)
    _start_ray()
    serve_until_stopped(options.app_args())
    return 0


def verify(arguments: list[str]) -> int:
    from longva_ray.shards.store import ShardStore

    store = ShardStore(absolute(parse(Verify, arguments).store))
    found = []
    for error in store.verify():
        found.append(error)
        if error is not None:
            print(error, flush=True)
    if not found:
        raise ValueError(f"no encoded videos in {store.root}")
    print(f"{found.count(None)} of {len(found)} videos are as written")
    return 1 if any(found) else 0


def join(arguments: list[str]) -> int:
    import torch

    from longva_ray.lm.join import assemble_longva

    options = parse(Join, arguments)
    assemble_longva(
        options.language_model,
        options.tower,
        seed=options.seed,
        path=options.out,
        dtype=getattr(torch, options.dtype),
        grid_rule=options.grid_rule,
        frame_fitting=options.frame_fitting,
        encoding=options.encoding,
        projector=options.projector,
    )
    print(f"wrote {options.out}; its projector knows nothing yet, see jobs/align_vision.py")
    return 0


def plan(arguments: list[str]) -> int:
    from longva_ray.planner.report import PlanOptions, make_plan, print_plan

    options = parse(PlanOptions, arguments)
    found = make_plan(options)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print_plan(found, Console())
    return 0


def _start_ray() -> None:
    """Connect to the cluster of this machine or start one, without its own chatter."""
    import ray

    ray.init(logging_level=logging.WARNING, log_to_driver=False)
    for chatty in ("ray.data", "ray.serve", "httpx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "demo": demo,
    "ask": ask,
    "serve": serve,
    "verify": verify,
    "join": join,
    "plan": plan,
}


USAGE = """usage: longva COMMAND [OPTIONS]

  demo [VIDEO]           encode a video into shards and ask about it over HTTP
  ask VIDEO "QUESTION"   answer a question about a video
  serve                  serve chat and scoring by HTTP
  verify STORE           compare a store of shards with its digests
  join LM TOWER OUT      a language model and a vision tower as one checkpoint, to be aligned
  plan                   memory of a training step, and the longest sequence that fits

longva COMMAND --help lists the options of a command. Clusters: see jobs/ and docs/cluster.md.
"""


def main() -> None:
    """Entry point of the `longva` command."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        raise SystemExit(0 if arguments else 2)
    if arguments[0] not in COMMANDS:
        raise SystemExit(f"error: no command {arguments[0]!r}\n\n{USAGE}")
    handler = RichHandler(console=Console(stderr=True), show_path=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    run_job(lambda: COMMANDS[arguments[0]](arguments[1:]))
