"""The main job end to end on one machine: video -> shards by Ray Data -> questions over HTTP to Ray
Serve.

Everything is the real thing: an H.264 file, decoding tasks and encoder actors, Arrow shards on
disk, a Serve application on a loopback port, and an HTTP client that knows nothing of this package.
What it leaves behind lies in one folder."""

import dataclasses
import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ray
from PIL import Image, ImageDraw
from ray import serve
from rich.console import Console
from rich.table import Table

from longva_ray.config import Recipe, save_config
from longva_ray.recipes import materialise
from longva_ray.serving.app import AppArgs
from longva_ray.serving.run import APPLICATION, deploy
from longva_ray.shards.pipeline import EncodeReport, encode_videos
from longva_ray.shards.store import EncodedVideo, ShardStore
from longva_ray.video.decode import decode_frames
from longva_ray.video.synthetic import Scene, write_scene_video

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 120.0


def run_demo(video: Path | None, recipe: Recipe, folder: Path, console: Console) -> None:
    """Encode a video (one made here if none is given), ask about it over HTTP, and say where
    everything lies."""
    folder.mkdir(parents=True, exist_ok=True)
    save_config(recipe, folder / "recipe.json")
    scenes: list[Scene] = []
    if video is None:
        video = folder / "scenes.mp4"
        console.print(f"[bold]1. Video[/]  drawing three minutes of numbered scenes: {video}")
        scenes = write_scene_video(video, seconds=180)
    else:
        console.print(f"[bold]1. Video[/]  {video}")
    checkpoint = materialise(recipe)
    store = ShardStore(folder / "shards")
    console.print("[bold]2. Encode[/] Ray Data: decode -> CLIP tower -> projector -> shards")
    report = encode_videos([str(video)], store=store, checkpoint=checkpoint, config=recipe.encode)
    _show_encoding(report, console)
    if report.failed:
        raise ValueError(f"cannot encode {video}: {report.failed[0].error}")
    video_id = report.videos[0].video_id
    encoded = store.open(video_id, fingerprint=report.spec.encoder_fingerprint)
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
        answers = list(_ask_all(url, recipe.name, video_id, scenes, console))
    finally:
        serve.delete(APPLICATION)
        ray.shutdown()
    (folder / "answers.json").write_text(json.dumps(answers, indent=2) + "\n")
    if recipe.checkpoint is None:
        console.print("\n[yellow]These weights are random: every step above is real,")
        console.print("[yellow]but the answers mean nothing yet.")
    console.print(f"\nEverything lies in {folder.absolute()}:", soft_wrap=True)
    for item in sorted(folder.iterdir()):
        console.print(f"  {item.name}")


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
    url: str, model: str, video_id: str, scenes: list[Scene], console: Console
) -> Iterator[dict[str, Any]]:
    """Ask one streamed question and score one multiple choice; yield what was asked and
    answered."""
    with httpx.Client(base_url=url, timeout=REQUEST_TIMEOUT_S) as client:
        listed = client.get("/v1/videos").raise_for_status().json()["data"]
        console.print(f"  GET /v1/videos: {[video['source'] for video in listed]}")
        conversation = _conversation(model, video_id, "What happens in this video?")
        with client.stream(
            "POST",
            "/v1/chat/completions",
            json=conversation | {"stream": True, "max_tokens": 24},
        ) as response:
            response.raise_for_status()
            answer = "".join(_streamed_text(response))
        console.print(f"  Q: What happens in this video?\n  A (streamed): {answer!r}")
        yield {"question": "What happens in this video?", "answer": answer}
        if scenes:
            scene = scenes[len(scenes) // 2]
            question = f"Which colour is the background of scene {scene.number}?"
            options = sorted({other.color for other in scenes})
            body = _conversation(model, video_id, question) | {"answers": options}
            scored = client.post("/v1/score", json=body).raise_for_status().json()
            chosen = options[scored["best"]]
            console.print(
                f"  Q: {question}\n  A (likeliest of {len(options)}): {chosen}; true: {scene.color}"
            )
            yield {"question": question, "true": scene.color, "scores": scored["scores"]}


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
    """A picture of what the encoder was shown: evenly spread frames with their times."""
    spec = encoded.record.spec
    rows = np.unique(np.linspace(0, encoded.num_frames - 1, 4 * columns, dtype=int))
    chunks = decode_frames(
        video,
        encoded.frame_index_F[rows],
        size=spec.frame_size,
        fitting=spec.fitting,
        chunk_frames=len(rows),
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
