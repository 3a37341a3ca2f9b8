"""LongVA with AnyRes: assembled, saved and loaded, asked about images and about videos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
)

from longva_ray.lm.auto_classes import register_longva
from longva_ray.lm.join import assemble_longva
from longva_ray.lm.layout import load_longva_config
from longva_ray.lm.load import load_frame_encoder, load_longva
from longva_ray.lm.longva import LongVAForConditionalGeneration
from longva_ray.lm.longva_config import LongVAConfig
from longva_ray.lm.processor import LongVAProcessor
from longva_ray.vision.anyres import NEWLINE

MakeConfig = Callable[..., LongVAConfig]


FP32 = torch.float32


IMAGE = 259


NEWLINE_NAME = "frame_encoder.projector.newline.weight"


@pytest.fixture(scope="module")
def sources(
    make_config: MakeConfig,
    clip_config: CLIPVisionConfig,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A text backbone and a tower with grids of 28 pixels, 4 patches, 1 token after pooling."""
    folder = tmp_path_factory.mktemp("sources")
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(make_config().text).save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")
    CLIPVisionModel(clip_config).save_pretrained(folder / "clip")
    return folder


@pytest.fixture(scope="module")
def anyres(sources: Path) -> Path:
    path = sources / "anyres"
    assemble_longva(sources / "text", sources / "clip", seed=1, path=path, encoding="anyres")
    return path


@pytest.fixture(scope="module")
def loaded(anyres: Path) -> tuple[LongVAForConditionalGeneration, LongVAProcessor]:
    return load_longva(anyres, dtype=FP32)


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_the_newline_is_made_saved_and_loaded(sources: Path, anyres: Path, tmp_path: Path) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    for path, seed in ((again, 1), (other, 2)):
        assemble_longva(sources / "text", sources / "clip", seed=seed, path=path, encoding="anyres")
    weights = [(path / "model.safetensors").read_bytes() for path in (anyres, again, other)]
    assert weights[0] == weights[1] != weights[2]

    model, processor = load_longva(anyres, dtype=FP32)
    newline = model.state_dict()[NEWLINE_NAME].clone()
    assert newline.shape == (32,)
    assert float(newline.std()) == pytest.approx(32**-0.5, rel=0.4)
    assert (model.config.encoding, model.config.max_grids) == ("anyres", 4)
    assert processor.encoding == "anyres"
    encoder = load_frame_encoder(anyres, dtype=FP32)
    assert torch.equal(encoder.projector.newline.weight, newline)
    assert encoder.fingerprint() == model.frame_encoder.fingerprint()

    with torch.no_grad():
        model.frame_encoder.projector.newline.weight += 1
    model.save_pretrained(tmp_path / "moved")
    processor.save_pretrained(tmp_path / "moved")
    moved, _ = load_longva(tmp_path / "moved", dtype=FP32)
    assert torch.equal(moved.state_dict()[NEWLINE_NAME], newline + 1)
    register_longva()
    assert AutoProcessor.from_pretrained(tmp_path / "moved").to_dict() == processor.to_dict()


def test_a_checkpoint_that_says_nothing_is_unires(checkpoint: Path, tmp_path: Path) -> None:
    """As every one did before there were two encodings."""
    expected, _ = load_longva(checkpoint, dtype=FP32)
    assert NEWLINE_NAME not in expected.state_dict()
    for file in checkpoint.iterdir():
        content = file.read_bytes()
        if file.name in ("config.json", "processor_config.json"):
            values = json.loads(content)
            assert values.pop("encoding") == "unires"
            if file.name == "processor_config.json":
                del values["pool_stride"]
            content = json.dumps(values).encode()
        (tmp_path / file.name).write_bytes(content)
    model, processor = load_longva(tmp_path, dtype=FP32)
    assert load_longva_config(tmp_path).encoding == processor.encoding == "unires"
    assert model.frame_encoder.fingerprint() == expected.frame_encoder.fingerprint()


def plain_prompt(
    model: LongVAForConditionalGeneration, inputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Embeddings of one prompt, a token at a time."""
    encoder, table = model.frame_encoder, model.get_input_embeddings().weight
    with torch.no_grad():
        pixels = encoder._normalise(inputs["pixel_values"])
        patches_GPD = encoder.projector(encoder.tower(pixels))
    sources = iter(inputs["image_sources"].tolist())
    embeds = []
    for token_id in inputs["input_ids"][0].tolist():
        if token_id != IMAGE:
            embeds.append(table[token_id])
            continue
        grid, number = next(sources)
        newline = encoder.projector.newline.weight
        embeds.append(newline if grid == NEWLINE else patches_GPD[grid, number - 1])
    assert next(sources, None) is None
    return {"inputs_embeds": torch.stack(embeds)[None]}


def test_logits_and_generation_equal_a_plain_composition(
    loaded: tuple[LongVAForConditionalGeneration, LongVAProcessor],
) -> None:
    model, processor = loaded
    images = [picture(56, 28), picture(28, 84)]
    inputs: Any = processor(text="<image>or<image>?", images=images)
    # base, map of 2x1 grids, base, map of 1x3: patches and a newline for each line
    assert len(inputs["image_sources"]) == 4 + 2 * 5 + 4 + 6 * 3
    assert int((inputs["input_ids"] == IMAGE).sum()) == len(inputs["image_sources"])
    assert len(inputs["pixel_values"]) == (1 + 2) + (1 + 3)
    plain = plain_prompt(model, inputs)
    with torch.no_grad():
        torch.testing.assert_close(
            model(**inputs).logits, model(**plain).logits, rtol=1e-4, atol=1e-5
        )
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
    for beams in (1, 3):
        answer = model.generate(**inputs, **settings, num_beams=beams)[:, -6:]
        assert torch.equal(answer, model.generate(**plain, **settings, num_beams=beams)[:, -6:])


def test_a_batch_equals_one_by_one(
    loaded: tuple[LongVAForConditionalGeneration, LongVAProcessor],
    frames_FYXC: NDArray[np.uint8],
) -> None:
    model, processor = loaded
    texts = ["<image> what?", "<video><image>?", "only text"]
    images, videos = [picture(56, 56), picture(30, 50)], [frames_FYXC[:2]]
    batch = processor(text=texts, images=images, videos=videos)
    settings: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}
    together = model.generate(**batch, **settings)[:, -5:]
    alone = [
        processor(text=texts[0], images=images[0]),
        processor(text=texts[1], images=images[1], videos=videos),
        processor(text=texts[2]),
    ]
    for row, inputs in enumerate(alone):
        assert torch.equal(model.generate(**inputs, **settings)[0, -5:], together[row])


def test_pixels_without_sources_are_refused(
    loaded: tuple[LongVAForConditionalGeneration, LongVAProcessor],
) -> None:
    model, processor = loaded
    inputs = processor(text="<image>", images=picture(28, 28))
    del inputs["image_sources"]
    with pytest.raises(ValueError, match="want its image_sources"):
        model(**inputs)
