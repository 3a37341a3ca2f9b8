"""A LongVA, encoded folders of frames and an image, and pairs of answers about them, to prefer in
seconds."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from vision_world import write_base, write_image

from longva_ray.answer.engine import AnswerEngine
from longva_ray.data.images.chat import Item, RawSample, read_samples
from longva_ray.data.preferences.frame_folders import EncodeFolder
from longva_ray.data.preferences.manifest import Provenance, manifest_of
from longva_ray.data.preferences.score import PairScorer
from longva_ray.data.preferences.seen import MediaTokens, Medium, Seen
from longva_ray.data.preferences.shards import (
    PreferencePart,
    PreferenceRow,
    PreferenceShardError,
    PreferenceShardWriter,
)
from longva_ray.data.sample_parts import EncodePart, PartResult
from longva_ray.files.folder import Folder
from longva_ray.lm.fingerprints import fingerprint_checkpoint, tokenizer_fingerprint
from longva_ray.lm.layout import load_longva_config, open_checkpoint
from longva_ray.lm.longva import LongVAForConditionalGeneration, encoded
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.settings.training import PreferConfig
from longva_ray.shards.image_encoder import EncodeImage
from longva_ray.shards.workers import describe_encoder

ENCODING = EncodeConfig(dtype="float32", encoder_gpus=0, part_frames=5)

VIDEOS = {"a": 3, "b": 12, "c": 7}
"""Folders, and frames in each."""

IMAGE = "d.png"

PAIRS = (
    ("one", "a", "What?", "Noise.", "A cat."),
    ("two", "b", "<video>\nAnd here?", "Noise again, and a lot of it.", "No."),
    ("three", "c", "So?", "So.", "It is a film about a very long silence."),
    ("four", IMAGE, "Is it long?", "Yes.", "No."),
    ("five", "a", "Is it long?", "No.", "Yes."),
)


def pair(name: str, place: str, prompt: str, chosen: str, rejected: str) -> dict[str, str]:
    """A record in LLaVA-Hound's form."""
    answers = {"answer": chosen, "chosen": chosen, "rejected": rejected}
    return {"id": name, "image" if place == IMAGE else "video": place, "prompt": prompt, **answers}


def write_pairs(folder: Path, records: list[Any] | None = None) -> Path:
    path = folder / "pairs.jsonl"
    entries = [pair(*each) for each in PAIRS] if records is None else records
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def world_media(folder: Path) -> Seen:
    """What pairs are about, written into `folder` and encoded by its `base` into its `store`;
    "gone.mp4" could not be."""
    base, store = str(folder / "base"), str(folder / "store")
    spec = describe_encoder(base, ENCODING)
    encode = EncodeFolder(base, ENCODING, store, spec)
    media = {}
    for name, frames in VIDEOS.items():
        (folder / name).mkdir(exist_ok=True)
        for number in range(frames):
            write_image(folder / name / f"{number:02d}.png", 1, 1, seed=100 * frames + number)
        found = encode(0, str(folder / name))
        item = Item(kind="video", place=str(folder / name))
        media[item] = Medium("frames", found.video_id)
    write_image(folder / IMAGE, 3, 2, seed=0)
    row = EncodeImage(base, ENCODING, store)({"path": [str(folder / IMAGE)]})
    media[Item(kind="image", place=str(folder / IMAGE))] = Medium("image", row["image_id"][0])
    gone = Item(kind="video", place=str(folder / "gone.mp4"))
    return Seen(store=store, spec=spec, media=media, errors={gone: "does not exist"})


def scorer(folder: Path, *, live: bool = False, **limits: Any) -> PairScorer:
    """The reference model of `folder/base`, or with `live` nobody, and what pairs are about."""
    base = str(folder / "base")
    return PairScorer(
        open_checkpoint(base).tokenizer(),
        None if live else AnswerEngine(base, dtype="float32"),
        world_media(folder),
        load_longva_config(base).grids,
        **{"frames": None, "max_tokens": 500, **limits},
    )


def write_preferences(
    folder: Path,
    samples: list[RawSample],
    *,
    inside: str = "shards",
    stop: bool = False,
    **limits: Any,
) -> PartResult[PreferencePart]:
    """Shards of these pairs; what became of them."""
    base, output, key = str(folder / "base"), str(folder / inside), "key"
    scored = scorer(folder, **limits)
    writer = PreferenceShardWriter(output, key=key, pixels=limits.get("pixels", False))
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
        reference=fingerprint_checkpoint(base),
        tokenizer=tokenizer_fingerprint(open_checkpoint(base).tokenizer()),
        settings={},
        key=key,
    )
    writer.commit(manifest_of([result], origin))
    return result


def write_world(folder: Path, *, held_out: int = 0, **limits: Any) -> Path:
    """A model, a store and shards of all pairs, the last of them held out."""
    write_base(folder / "base")
    samples = read_samples([str(write_pairs(folder))], image_folder=None, seed=0)
    training = len(samples) - held_out
    write_preferences(folder, samples[:training], **limits)
    if held_out:
        write_preferences(folder, samples[training:], inside="shards/held_out", **limits)
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
    folder: Path,
    model: LongVAForConditionalGeneration,
    row: PreferenceRow,
    *,
    from_pixels: bool = False,
) -> list[torch.Tensor]:
    """Log-probability of each answer, by transformers' own forward pass on its document alone."""
    if from_pixels:
        assert row.cut is not None
        source_S2 = torch.tensor(row.cut.source_S2)
        tokens_SD = model.frame_encoder.encode_images(row.cut.grids_GYXC, source_S2)
    else:
        spec = describe_encoder(str(folder / "base"), ENCODING)
        tokens = MediaTokens(
            str(folder / "store"), spec, load_longva_config(str(folder / "base")).grids
        )
        numbers = torch.arange(tokens.count(row.medium, row.frames_F))
        tokens_SD = tokens.take(row.medium, row.frames_F, numbers)
    kind = "image" if row.medium.kind == "image" else "video"
    documents = torch.from_numpy(row.input_ids_T.copy()).long().split(row.document_lengths)
    found = []
    for ids_T, length in zip(documents, row.answer_lengths, strict=True):
        visual = {kind: encoded(tokens_SD)}
        scores = model(input_ids=ids_T[None], mm_encoder_outputs=visual).logits[0, :-1]
        likely = scores.log_softmax(-1)[-length:].gather(1, ids_T[-length:, None])
        found.append(likely.double().sum())
    return found
