"""A part of samples: one that cannot be read is left out by name, whatever its reading raises."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features
from vision_world import conversation, write_base, write_image

from longva_ray.data.images.chat import RawSample
from longva_ray.data.images.encode import part_worker
from longva_ray.data.images.manifest import video_settings
from longva_ray.data.images.samples import SampleEncoder
from longva_ray.data.images.shards import VisionPart, VisionShardError, VisionShardWriter
from longva_ray.data.sample_parts import PartResult
from longva_ray.files.folder import Folder
from longva_ray.lm.base_models import load_tokenizer
from longva_ray.lm.layout import load_longva_config
from longva_ray.lm.longva_config import LongVAConfig

HALF = "\ud83d"
"""Half of a surrogate pair, as JSON may hold it."""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SampleEncoder:
    base = write_base(tmp_path_factory.mktemp("base") / "longva")
    grids = load_longva_config(base).grids
    return SampleEncoder(
        load_tokenizer(base), grids, sampling="1fps", video_fitting="letterbox", max_tokens=256
    )


def sample(folder: Path, name: str, text: str = "<image>\nWhat?", **content: Any) -> RawSample:
    asked = {"conversations": conversation(text, "Noise."), **content}
    return RawSample(sample_id=name, folder=str(folder), content=asked)


def encode(
    folder: Path, encoder: SampleEncoder, samples: list[RawSample], *, stop: bool = False
) -> PartResult[VisionPart]:
    writer = VisionShardWriter(str(folder), key="key")
    worker = part_worker(Folder(str(folder)), "key", encoder, writer, row_tokens=256, stop=stop)
    return worker(0, samples)


def test_what_reading_raises_belongs_to_its_sample(
    tmp_path: Path, encoder: SampleEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    raises = {"runtime": RuntimeError("AVIF"), "type": TypeError("str"), "memory": MemoryError()}
    for name in ("good", *raises):
        write_image(tmp_path / f"{name}.png", 1, 1, seed=0)
    opened = Image.open

    def open_or_raise(path: Path) -> Image.Image:
        if path.stem in raises:
            raise raises[path.stem]
        return opened(path)

    monkeypatch.setattr(Image, "open", open_or_raise)
    samples = [sample(tmp_path, name, image=f"{name}.png") for name in ("good", *raises)]
    samples += [
        sample(tmp_path, "text", f"<image>\nWhat {HALF}?", image="good.png"),
        sample(tmp_path, f"id{HALF}", image="good.png"),
        sample(tmp_path, "path", image=f"{HALF}.png"),
        sample(tmp_path, "role", conversations=[{"from": ["human"], "value": "Who?"}]),
        sample(tmp_path, "last", image="good.png"),
    ]
    result = encode(tmp_path / "shards", encoder, samples)
    expected = {
        "runtime": "runtime.png cannot be read: RuntimeError: AVIF",
        "type": "type.png cannot be read: TypeError: str",
        "memory": "memory.png cannot be read: MemoryError",
        "text": "turn 0 holds half of a surrogate pair",
        "id\\ud83d": "its id holds half of a surrogate pair",
        "path": "\\ud83d.png cannot be read",
        "role": "turn 0 is from ['human'], want one of",
    }
    reasons = {each.sample_id: each.reason for each in result.left_out}
    assert list(reasons) == list(expected)
    for name, reason in expected.items():
        assert reason in reasons[name]
        assert reasons[name].isprintable()
    assert result.record.num_samples == 2


def test_one_bad_sample_stops_by_name_unless_told_to_skip(
    tmp_path: Path, encoder: SampleEncoder
) -> None:
    bad = sample(tmp_path, "odd", f"What {HALF}?")
    with pytest.raises(VisionShardError, match=r"sample odd: turn 0 holds half .*on-error skip"):
        encode(tmp_path / "shards", encoder, [bad], stop=True)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_damaged_avif_is_left_out_whatever_its_decoder_raises(
    tmp_path: Path, encoder: SampleEncoder
) -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    whole = io.BytesIO()
    picture.save(whole, "AVIF")
    names = [f"damaged-{number}" for number in range(60)]
    for name in names:
        damaged = bytearray(whole.getvalue())
        for place in rng.integers(0, len(damaged), 8):
            damaged[place] = rng.integers(256)
        (tmp_path / name).write_bytes(damaged)
    result = encode(
        tmp_path / "shards", encoder, [sample(tmp_path, name, image=name) for name in names]
    )
    assert result.num_samples == len(names)
    assert len(result.left_out) > 20
    for each in result.left_out:
        assert f"/{each.sample_id} cannot be read: " in each.reason


def test_shards_of_images_alone_are_those_made_before_there_were_two_rules(tmp_path: Path) -> None:
    images = [sample(tmp_path, "an image", image="a.png")]
    videos = [*images, sample(tmp_path, "a video", video="a.mp4")]
    model = LongVAConfig(frame_fitting="letterbox")
    assert video_settings("1fps", model, images) == {"sampling": "1fps"}
    assert video_settings("1fps", model, videos) == {"sampling": "1fps-by-time"}
    assert video_settings("1fps-by-count", model, videos) == {"sampling": "1fps"}
    model.video_fitting = "center_crop"
    assert video_settings("1fps", model, images) == {"sampling": "1fps"}
    assert video_settings("1fps", model, videos)["video_fitting"] == "center_crop"
