"""Images at inference against alignment's own path, and the store that keeps them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import encoded, exchanges_about, many_kinds, noise, write_table
from vision_world import conversation, write_base

from longva_ray.answer.engine import AnswerEngine, Question
from longva_ray.data.images.chat import RawSample, parse_sample
from longva_ray.data.images.samples import SampleEncoder
from longva_ray.lm.base_models import load_tokenizer
from longva_ray.lm.layout import load_longva_config
from longva_ray.lm.load import load_frame_encoder
from longva_ray.settings.answering import GenerationSettings
from longva_ray.settings.base import Dtype
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.shards.image_encoder import load_image_encoder
from longva_ray.shards.images import ImageStore, image_id_of
from longva_ray.shards.schema import ShardError
from longva_ray.vision.encoding import Encoding

ENCODE = EncodeConfig(dtype="float32", micro_batch=64)


@pytest.mark.parametrize("encoding", ["unires", "anyres"])
def test_tokens_equal_those_of_alignment(tmp_path: Path, encoding: Encoding) -> None:
    """Alignment's shards hold grids and sources; its loss makes tokens of them as is done here."""
    base = write_base(tmp_path / "base", encoding)
    store = ImageStore(tmp_path / "store")
    encoder, spec = load_image_encoder(base, ENCODE, store)
    alignment = SampleEncoder(
        load_tokenizer(base),
        load_longva_config(base).grids,
        sampling="1fps",
        video_fitting="letterbox",
        max_tokens=4000,
    )
    frame_encoder = load_frame_encoder(base, dtype=torch.float32)
    turns = conversation("<image>\nwhat?", "noise.")
    for name, content in many_kinds().items():
        (tmp_path / name).write_bytes(content)
        sample = {"image": name, "conversations": turns}
        trained = alignment(
            parse_sample(RawSample(sample_id=name, folder=str(tmp_path), content=sample))
        )
        with torch.no_grad():
            tokens_GKD = frame_encoder.grid_tokens(torch.from_numpy(trained.grids_GYXC))
            wanted_SD = frame_encoder.arrange(tokens_GKD, torch.from_numpy(trained.source_S2))
        image_id = encoder(content, name)
        assert torch.equal(store.tokens(image_id, spec), wanted_SD), name
        assert store.num_tokens(image_id, spec) == len(wanted_SD)
        placeholder = load_longva_config(base).image_token_id
        assert np.count_nonzero(trained.input_ids_T == placeholder) == len(wanted_SD)


def test_right_answers_about_an_image(tmp_path: Path, tiny_checkpoint: str) -> None:
    scenes = write_table(tmp_path / "table.png")
    store = ImageStore(tmp_path / "store")
    encoder, spec = load_image_encoder(tiny_checkpoint, ENCODE, store)
    tokens_SD = store.tokens(encoder((tmp_path / "table.png").read_bytes(), "it"), spec)
    assert len(tokens_SD) == 6 * 4
    engine = AnswerEngine(tiny_checkpoint, dtype="float32")
    right = []
    for exchange in exchanges_about(scenes):
        content = [{"type": "image"}, {"type": "text", "text": exchange.question}]
        question = Question(messages=[{"role": "user", "content": content}], items=[tokens_SD])
        said = engine.answer(engine.read(question), GenerationSettings(max_new_tokens=12))
        right.append(said.strip() == exchange.answer)
    assert sum(right) >= 0.9 * len(right)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_image_is_encoded_once(tmp_path: Path, tiny_checkpoint: str, dtype: Dtype) -> None:
    config = dataclasses.replace(ENCODE, dtype=dtype)
    content = encoded(noise(130, 70))
    store = ImageStore(tmp_path)
    encoder, spec = load_image_encoder(tiny_checkpoint, config, store)
    assert not store.is_there(image_id_of(content), spec)
    image_id = encoder(content, "it")
    assert image_id == image_id_of(content)
    tokens_SD = store.tokens(image_id, spec)
    assert tokens_SD.dtype == getattr(torch, dtype)
    (file,) = tmp_path.glob("images/*/unires-*.safetensors")
    written = file.stat().st_mtime_ns
    assert encoder(content, "the same") == image_id
    assert file.stat().st_mtime_ns == written
    assert [*store.verify()] == [None]
    for changes in ({"micro_batch": 1}, {"encoder_fingerprint": "f" * 32}):
        other = dataclasses.replace(spec, **changes)  # type: ignore[arg-type]
        assert not store.is_there(image_id, other)


def test_damage_is_named(tmp_path: Path, tiny_checkpoint: str) -> None:
    store = ImageStore(tmp_path)
    encoder, spec = load_image_encoder(tiny_checkpoint, ENCODE, store)
    image_id = encoder(encoded(noise(60, 60)), "it")
    (file,) = tmp_path.glob("images/*/*.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (damage,) = store.verify()
    assert "does not match its digest" in str(damage)
    with pytest.raises(ShardError, match="does not match its digest"):
        store.tokens(image_id, spec)
    for byte in range(8):  # the length of the header
        file.write_bytes(content[:byte] + bytes([content[byte] ^ 0x10]) + content[byte + 1 :])
        for read in (store.num_tokens, store.tokens):
            with pytest.raises(ShardError, match="delete it"):
                read(image_id, spec)
    for rest in (content[:-1], content[:20], b""):
        file.write_bytes(rest)
        (damage,) = store.verify()
        assert str(file) in str(damage)
        with pytest.raises(ShardError, match="delete it"):
            store.tokens(image_id, spec)
    file.unlink()
    with pytest.raises(ShardError, match="cannot be read"):
        store.num_tokens(image_id, spec)
