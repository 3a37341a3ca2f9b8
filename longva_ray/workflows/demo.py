"""The whole path on one machine.

    video -> shards by Ray Data -> questions over HTTP to Ray Serve -> a small V-NIAH

Everything is real: an H.264 file, decoding tasks and encoder actors, Arrow shards on disk, a Serve
application on a loopback port, and an HTTP client that knows nothing of this package. Without a
video of the user, the demo draws a haystack of the tiny world and hides letters and digits in it,
so that every answer can be checked. Everything it makes is in one folder.
"""

import dataclasses
import json
import random
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ray
from PIL import Image, ImageDraw
from ray import serve
from rich.console import Console
from rich.table import Table

from longva_ray.evaluate.subjects import Subject
from longva_ray.evaluate.video.run import run_vniah
from longva_ray.recipes import checkpoint_of
from longva_ray.serving.app_args import AppArgs
from longva_ray.serving.run import APPLICATION, deploy
from longva_ray.settings.base import save_config
from longva_ray.settings.recipe import Recipe
from longva_ray.shards.encoded_video import EncodedVideo
from longva_ray.shards.pipeline import EncodeReport, encode_videos
from longva_ray.shards.store import ShardStore
from longva_ray.tiny.videos import NEEDLES_FILE, write_haystack, write_needles
from longva_ray.tiny.world import (
    COLOURS,
    DIGITS,
    LETTERS,
    Exchange,
    Scene,
    ask_colour,
    ask_first,
    ask_presence,
)
from longva_ray.video.decode import decode_frames

REQUEST_TIMEOUT_S = 120.0


HAYSTACK_S = 240


NUM_HIDDEN = 3


VNIAH_NEEDLES = 2


OPEN_QUESTION = "What happens in this video?"


def run_demo(
    video: Path | None, recipe: Recipe, folder: Path, console: Console, *, seed: int | None
) -> None:
    """Encode a video, ask about it over HTTP, and say where the results are.

    Args:
        video: None draws one.
        seed: of the drawn video; None draws the seed, too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_config(recipe, folder / "recipe.json")
    checkpoint = checkpoint_of(recipe)
    asked = [Exchange(OPEN_QUESTION, "")]
    made = video is None
    if video is None:
        seed = random.SystemRandom().randrange(10**6) if seed is None else seed
        video = folder / f"haystack-{seed}.mp4"
        console.print(
            "[bold]1. Video[/]  drawing four minutes of shapes, with letters and digits hidden "
            f"among them: {video}"
        )
        asked = _hide(video, folder / "needles", seed, console)
    else:
        console.print(f"[bold]1. Video[/]  {video}")
    store = ShardStore(folder / "shards")
    console.print("[bold]2. Encode[/] Ray Data: decode -> CLIP tower -> projector -> shards")
    report = encode_videos([str(video)], store=store, checkpoint=checkpoint, config=recipe.encode)
    _show_encoding(report, console)
    if report.failed:
        raise ValueError(f"cannot encode {video}: {report.failed[0].error}")
    video_id = report.videos[0].video_id
    encoded = store.open(video_id, report.spec)
    _contact_sheet(video, encoded, folder / "frames.png")
    console.print("[bold]3. Serve[/]  Ray Serve: an OpenAI-shaped API that reads the shards")
    config = dataclasses.replace(recipe.serve, port=_free_port(), log_level="WARNING")
    args = AppArgs(
        model_name=recipe.name,
        checkpoint=checkpoint,
        store=str(folder / "shards"),
        encode=recipe.encode,
        serve=config,
    )
    url = deploy(args)
    try:
        console.print(f"[bold]4. Ask[/]    over HTTP at {url}")
        answers = _ask_all(url, recipe.name, video_id, asked, console)
    finally:
        serve.delete(APPLICATION)
    (folder / "answers.json").write_text(json.dumps(answers, indent=2) + "\n")
    if made:
        console.print("[bold]5. V-NIAH[/] the same haystack, other needles, at several depths")
        _small_vniah(video, recipe, checkpoint, folder, console)
    ray.shutdown()
    console.print(f"\nEverything is in {folder.absolute()}:", soft_wrap=True)
    for item in sorted(folder.iterdir()):
        console.print(f"  {item.name}")
    again = f'longva ask {video} "{asked[0].question}" --recipe {recipe.name} --store {store.root}'
    console.print(f"\nAsk it yourself:\n  {again}", soft_wrap=True, markup=False)


def _hide(video: Path, needles: Path, seed: int, console: Console) -> list[Exchange]:
    """Write a haystack with things hidden in it, and needles of other things; returns questions
    about the haystack with their true answers."""
    rng = random.Random(seed)
    later = {scene.thing for scene in write_needles(needles, count=VNIAH_NEEDLES, seed=seed)}
    free = [thing for thing in (*LETTERS, *DIGITS) if thing not in later]
    things = rng.sample(free, NUM_HIDDEN)
    seconds = sorted(rng.sample(range(HAYSTACK_S), NUM_HIDDEN))
    hidden = {
        second: Scene(rng.choice(list(COLOURS)), thing)
        for second, thing in zip(seconds, things, strict=True)
    }
    scenes = write_haystack(video, seconds=HAYSTACK_S, seed=seed, hidden=hidden)
    for second, scene in hidden.items():
        console.print(f"  hidden at {second // 60}:{second % 60:02d}  {scene}")
    one, another, third = things
    absent = rng.choice([thing for thing in free if thing not in things])
    return [
        ask_colour(scenes, one),
        ask_colour(scenes, another),
        ask_presence(scenes, third),
        ask_colour(scenes, absent),
        ask_first(scenes),
    ]


def _show_encoding(report: EncodeReport, console: Console) -> None:
    table = Table("video", "frames", "visual tokens", "seconds", "frames/s")
    for video in report.videos:
        tokens = video.num_frames * report.spec.tokens_per_frame
        rate = f"{video.frames_encoded / report.wall_s:.1f}" if video.frames_encoded else "cached"
        table.add_row(
            Path(video.path).name, str(video.num_frames), str(tokens), f"{report.wall_s:.1f}", rate
        )
    console.print(table)


def _ask_all(
    url: str, model: str, video_id: str, asked: Sequence[Exchange], console: Console
) -> list[dict[str, Any]]:
    """Each question with its streamed answer and the true one, where that is known."""
    answers = []
    with httpx.Client(base_url=url, timeout=REQUEST_TIMEOUT_S) as client:
        listed = client.get("/v1/videos").raise_for_status().json()["data"]
        console.print(f"  GET /v1/videos: {[video['source'] for video in listed]}")
        for exchange in asked:
            conversation = _conversation(model, video_id, exchange.question)
            with client.stream(
                "POST",
                "/v1/chat/completions",
                json=conversation | {"stream": True, "max_tokens": 24},
            ) as response:
                response.raise_for_status()
                answer = "".join(_streamed_text(response)).strip()
            right = answer == exchange.answer
            verdict = "[green]right" if right else f"[red]wrong, true: {exchange.answer}"
            console.print(f"  Q: {exchange.question}", highlight=False)
            console.print(f"  A: {answer}  {verdict if exchange.answer else ''}", highlight=False)
            answers.append(
                {"question": exchange.question, "answer": answer, "true": exchange.answer or None}
            )
    known = [each for each in answers if each["true"]]
    if known:
        num_right = sum(each["answer"] == each["true"] for each in known)
        console.print(f"  {num_right} of {len(known)} answers are right")
    return answers


def _small_vniah(
    video: Path, recipe: Recipe, checkpoint: str, folder: Path, console: Console
) -> None:
    out = folder / "vniah"
    config = dataclasses.replace(
        recipe.vniah,
        frames=(30, 60, 120, HAYSTACK_S),
        needles=str(folder / "needles" / NEEDLES_FILE),
        floor=False,
    )
    report = run_vniah(
        [Subject(name=recipe.name, path=checkpoint, dtype=recipe.vniah.dtype)],
        [str(video)],
        store=str(folder / "shards"),
        config=config,
        encode=recipe.encode,
        out=out,
    )
    score = report["models"][0]["average"]["exact"]
    console.print(
        f"  {score['score']:.0%} of {score['trials']} questions right; heatmap: {out / 'vniah.png'}"
    )


def _conversation(model: str, video_id: str, question: str) -> dict[str, Any]:
    content = [
        {"type": "video_url", "video_url": {"url": video_id}},
        {"type": "text", "text": question},
    ]
    return {"model": model, "messages": [{"role": "user", "content": content}]}


def _streamed_text(response: httpx.Response) -> Iterator[str]:
    for line in response.iter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                yield choice["delta"].get("content", "")


def _contact_sheet(video: Path, encoded: EncodedVideo, path: Path, columns: int = 6) -> None:
    """A picture of what the encoder saw: evenly spread frames with their times."""
    spec = encoded.record.spec
    rows = np.unique(np.linspace(0, encoded.num_frames - 1, 4 * columns, dtype=int))
    chunks = decode_frames(
        video,
        encoded.frame_index_F[rows],
        size=spec.frame_size,
        fitting=spec.fitting,
        chunk_frames=len(rows),
        resize=spec.resize,
    )
    frames_FYXC = next(iter(chunks)).frames_FYXC
    cell = max(spec.frame_size, 112)
    sheet = Image.new("RGB", (columns * cell, -(-len(rows) // columns) * (cell + 14)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (row, frame_YXC) in enumerate(zip(rows, frames_FYXC, strict=True)):
        left, top = (place % columns) * cell, (place // columns) * (cell + 14)
        frame = Image.fromarray(frame_YXC).resize((cell, cell), Image.Resampling.NEAREST)
        sheet.paste(frame, (left, top + 14))
        draw.text((left + 2, top + 1), f"{encoded.timestamp_s_F[row]:.1f} s", fill="black")
    sheet.save(path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
