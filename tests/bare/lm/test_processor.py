"""The processor: pixels and ids that belong together, and the errors when they do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoProcessor, PreTrainedTokenizerFast

from longva_ray.lm.auto_classes import register_longva
from longva_ray.lm.longva_config import LongVAConfig
from longva_ray.lm.processor import LongVAProcessor, processor_for
from longva_ray.lm.prompt import build_prompt
from longva_ray.vision.unires import split_image

IMAGE, VIDEO = 259, 260


@pytest.fixture
def processor(
    make_config: Callable[[], LongVAConfig], tokenizer: PreTrainedTokenizerFast
) -> LongVAProcessor:
    return processor_for(make_config(), tokenizer, tokens_per_grid=1)


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_images_and_videos_in_order(
    processor: LongVAProcessor, frames_FYXC: NDArray[np.uint8]
) -> None:
    wide, tall = picture(84, 28), picture(28, 56)
    inputs = processor(text="<image>a<video>b<image>", images=[wide, tall], videos=frames_FYXC[:4])
    ids = inputs["input_ids"][0].tolist()
    assert ids == [IMAGE] * 3 + [97] + [VIDEO] * 4 + [98] + [IMAGE] * 2
    assert inputs["attention_mask"].tolist() == [[1] * len(ids)]
    wanted = [
        split_image(image, rule="paper", fitting="letterbox", grid_size=28)
        for image in (wide, tall)
    ]
    assert torch.equal(inputs["pixel_values"], torch.from_numpy(np.concatenate(wanted)))
    assert torch.equal(inputs["pixel_values_videos"], torch.from_numpy(frames_FYXC[:4]))


@pytest.mark.parametrize("video_first", [True, False])
def test_chat_template_equals_build_prompt(
    processor: LongVAProcessor, frames_FYXC: NDArray[np.uint8], video_first: bool
) -> None:
    typed = "is <image> <|im_end|> here?"
    with_pixels = [{"type": "video", "video": frames_FYXC}, {"type": "text", "text": typed}]
    if not video_first:
        with_pixels.reverse()
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": with_pixels}],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
    )
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": typed}]}]
    ids_T = build_prompt(processor.tokenizer, messages, [len(frames_FYXC)])
    assert torch.equal(inputs["input_ids"], ids_T[None])
    assert torch.equal(inputs["pixel_values_videos"], torch.from_numpy(frames_FYXC))


def test_frames_of_another_size_are_fitted_like_images(processor: LongVAProcessor) -> None:
    frames_FYXC = np.stack([np.asarray(picture(64, 36)), np.asarray(picture(64, 36))])
    pixels = processor(text="<video>", videos=[frames_FYXC])["pixel_values_videos"]
    wanted = split_image(
        picture(64, 36), rule="paper", fitting="letterbox", grid_size=28, max_grids=1
    )
    assert pixels.shape == (2, 28, 28, 3)
    assert torch.equal(pixels[0], torch.from_numpy(wanted[0]))
    assert pixels[0, 0].max() == 0  # letterbox bar


def test_several_prompts_are_padded_on_the_left(processor: LongVAProcessor) -> None:
    inputs = processor(text=["<image>ab", "c"], images=[[picture(28, 28)], []])
    assert inputs["input_ids"].tolist() == [[IMAGE, 97, 98], [256, 256, 99]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]


def test_saving_and_the_auto_class(processor: LongVAProcessor, tmp_path: Path) -> None:
    register_longva()
    processor.max_prompt_tokens = 77
    processor.frame_fitting = "squash"
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, LongVAProcessor)
    assert loaded.to_dict() == processor.to_dict()
    assert loaded.chat_template == processor.chat_template
    assert (loaded.max_prompt_tokens, loaded.frame_fitting) == (77, "squash")
    image = picture(100, 60)
    for key, value in processor(text="<image>x", images=image).items():
        assert torch.equal(loaded(text="<image>x", images=image)[key], value)


def test_user_errors_give_both_counts(
    processor: LongVAProcessor, frames_FYXC: NDArray[np.uint8]
) -> None:
    with pytest.raises(ValueError, match=r"2 <image> placeholder\(s\) but 1 image\(s\)"):
        processor(text="<image><image>", images=picture(9, 9))
    with pytest.raises(ValueError, match=r"0 <video> placeholder\(s\) but 1 video\(s\)"):
        processor(text="no", videos=frames_FYXC)
    with pytest.raises(ValueError, match=r"shape .* and dtype float32, want frames F Y X 3"):
        processor(text="<video>", videos=frames_FYXC.astype(np.float32))
    with pytest.raises(ValueError, match="got an item of type str"):
        processor(text="<image>", images=["cat.png"])
    with pytest.raises(ValueError, match="got truncation, max_length"):
        processor(text="hi", truncation=True, max_length=1)
    with pytest.raises(ValueError, match="got none"):
        processor(images=picture(9, 9))
    processor.max_prompt_tokens = 4
    with pytest.raises(ValueError, match="prompt of 5 tokens exceeds the limit of 4;"):
        processor(text="<image>", images=picture(28 * 5, 28))
