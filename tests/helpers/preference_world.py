"""A LongVA, encoded videos of random tokens, and pairs of answers about them, to prefer in
seconds."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from encoded_video import SPEC, write_video
from vision_world import TOKENS_PER_GRID, write_base

from longva_ray.answer.engine import AnswerEngine
from longva_ray.data.images.chat import Item, RawSample, read_samples
from longva_ray.data.preferences.manifest import Provenance, manifest_of
from longva_ray.data.preferences.score import PairScorer
from longva_ray.data.preferences.seen import Medium, Seen
from longva_ray.data.preferences.shards import (
    PreferencePart,
    PreferenceRow,
    PreferenceShardError,
    PreferenceShardWriter,
)
from longva_ray.data.sample_parts import EncodePart, PartResult
from longva_ray.files.folder import Folder
from longva_ray.lm.fingerprints import fingerprint_checkpoint
from longva_ray.lm.layout import load_longva_config
from longva_ray.lm.longva import LongVAForConditionalGeneration, encoded
from longva_ray.settings.training import PreferConfig
from longva_ray.shards.store import ShardStore

WORLD_SPEC = dataclasses.replace(SPEC, width=32, tokens_per_frame=TOKENS_PER_GRID)

VIDEOS = {"a.mp4": 3, "b.mp4": 12, "c.mp4": 7}
"""Frames of each; parts of the store hold five."""

PAIRS = (
    ("one", "a.mp4", "What?", "Noise.", "A cat."),
    ("two", "b.mp4", "<video>\nAnd here?", "Noise again, and a lot of it.", "No."),
    ("three", "c.mp4", "So?", "So.", "It is a film about a very long silence."),
    ("four", "b.mp4", "Is it long?", "Yes.", "No."),
    ("five", "a.mp4", "Is it long?", "No.", "Yes."),
)


def pair(name: str, video: str, prompt: str, chosen: str, rejected: str) -> dict[str, str]:
    """A record in LLaVA-Hound's form."""
    answers = {"answer": chosen, "chosen": chosen, "rejected": rejected}
    return {"id": name, "video": video, "prompt": prompt, **answers}


def write_pairs(folder: Path, records: list[Any] | None = None) -> Path:
    path = folder / "pairs.jsonl"
    entries = [pair(*each) for each in PAIRS] if records is None else records
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def scorer(folder: Path, **limits: Any) -> PairScorer:
    """The reference model of `folder/base`, and its videos in `folder/store`; "gone.mp4" could not
    be encoded."""
    store = ShardStore(folder / "store")
    for frames in VIDEOS.values():
        if store.record(f"{frames:032x}", WORLD_SPEC) is None:
            write_video(store, WORLD_SPEC, frames, f"{frames:032x}")
    media = {
        Item(kind="video", place=str(folder / name)): Medium("video", f"{frames:032x}")
        for name, frames in VIDEOS.items()
    }
    gone = Item(kind="video", place=str(folder / "gone.mp4"))
    seen = Seen(
        store=str(folder / "store"), spec=WORLD_SPEC, media=media, errors={gone: "does not exist"}
    )
    base = str(folder / "base")
    engine, grids = AnswerEngine(base, dtype="float32"), load_longva_config(base).grids
    return PairScorer(engine, seen, grids, **{"frames": None, "max_tokens": 500, **limits})


def write_preferences(
    folder: Path,
    samples: list[RawSample],
    *,
    inside: str = "shards",
    stop: bool = False,
    **limits: Any,
) -> PartResult[PreferencePart]:
    """Shards of these pairs; what became of them."""
    output, key = str(folder / inside), "key"
    scored, writer = scorer(folder, **limits), PreferenceShardWriter(output, key=key)
    worker = EncodePart[PreferenceRow, PreferenceRow, PreferencePart](
        Folder(output),
        key,
        scored.score,
        iter,
        writer,
        stop=stop,
        settings="preferences",
        error=PreferenceShardError,
    )
    result = worker(0, samples)
    origin = Provenance(
        source=("pairs.jsonl",),
        seen=scored.seen,
        reference=fingerprint_checkpoint(str(folder / "base")),
        settings={},
        key=key,
    )
    writer.commit(manifest_of([result], origin))
    return result


def write_world(folder: Path, *, held_out: int = 0) -> Path:
    """A model, a store and shards of all pairs, the last of them held out."""
    write_base(folder / "base")
    samples = read_samples([str(write_pairs(folder))], image_folder=None, seed=0)
    training = len(samples) - held_out
    write_preferences(folder, samples[:training])
    if held_out:
        write_preferences(folder, samples[training:], inside="shards/held_out")
    return folder


def settings(**changes: Any) -> PreferConfig:
    """Three steps of four pairs on CPU workers, every state on every worker."""
    small = PreferConfig(
        steps=3,
        sequences_per_step=4,
        learning_rate=1e-2,
        schedule="constant",
        warmup_steps=0,
        dtype="float32",
        zero_stage=0,
        offload=False,
        checkpoint_activations=False,
        offload_activations=False,
        num_workers=1,
        ring_size=1,
        gpus_per_worker=0,
        cpus_per_worker=0.5,
        checkpoint_every=2,
        max_failures=0,
        collective_timeout_s=60,
        trackers=(),
    )
    return dataclasses.replace(small, **changes)


def plain_logprobs(
    folder: Path, model: LongVAForConditionalGeneration, row: PreferenceRow
) -> list[torch.Tensor]:
    """Log-probability of each answer, by transformers' own forward pass on its document alone."""
    video = ShardStore(folder / "store").open(row.medium.id, WORLD_SPEC)
    documents = torch.from_numpy(row.input_ids_T.copy()).long().split(row.document_lengths)
    found = []
    for ids_T, length in zip(documents, row.answer_lengths, strict=True):
        visual = {"video": encoded(video.tokens(row.frames_F))}
        scores = model(input_ids=ids_T[None], mm_encoder_outputs=visual).logits[0, :-1]
        likely = scores.log_softmax(-1)[-length:].gather(1, ids_T[-length:, None])
        found.append(likely.double().sum())
    return found
