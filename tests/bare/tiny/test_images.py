"""Alignment data: LLaVA's form, and images that UniRes cuts into exactly the scenes told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import AutoTokenizer

from longva_ray.data.images.chat import parse_sample, read_samples
from longva_ray.data.images.samples import SampleEncoder
from longva_ray.lm.layout import load_longva_config
from longva_ray.recipes import checkpoint_of, get_recipe
from longva_ray.tiny.curriculum import EXTENDED_TOKENS, PRETRAINED_TOKENS
from longva_ray.tiny.image_sets import CAPTIONS, CONVERSATIONS, ImageSet
from longva_ray.tiny.images import (
    SAMPLES_FILE,
    draw_table,
    write_captions,
    write_conversations,
)
from longva_ray.tiny.world import COLOURS, Scene
from longva_ray.vision.unires import split_image


def read(folder: Path) -> list[dict[str, Any]]:
    samples = json.loads((folder / SAMPLES_FILE).read_text())
    assert isinstance(samples, list)
    return samples


def brightest_colour(cell_YXC: np.ndarray) -> str:
    pixels = cell_YXC[cell_YXC.max(axis=-1) > 110]
    seen_C = np.median(pixels, axis=0)
    return min(COLOURS, key=lambda name: float(np.abs(seen_C - np.array(COLOURS[name])).sum()))


def test_captions_name_the_cells_in_the_order_of_their_tokens(tmp_path: Path) -> None:
    write_captions(ImageSet(count=12, grids=(1, 2, 4, 6)), seed=0, folder=tmp_path)
    for sample in read(tmp_path):
        question, answer = sample["conversations"]
        assert question == {"from": "human", "value": "<image>\nwhat is shown?"}
        assert answer["from"] == "gpt"
        told = [sentence.split()[-1] for sentence in answer["value"].split(".")[:-1]]
        with Image.open(tmp_path / sample["image"]) as image:
            cells = split_image(image, rule="paper", fitting="letterbox", grid_size=56)
        assert [brightest_colour(cell_YXC) for cell_YXC in cells] == told


def test_conversations_alternate_and_show_the_image_once(tmp_path: Path) -> None:
    write_conversations(ImageSet(count=15, grids=(1, 3, 9)), seed=1, folder=tmp_path)
    samples = read(tmp_path)
    assert len({sample["id"] for sample in samples}) == 15
    answers = []
    for sample in samples:
        turns = sample["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        values = [turn["value"] for turn in turns]
        assert values[0].startswith("<image>\n")
        assert sum("<image>" in value for value in values) == 1
        answers += values[1::2]
    assert any("not there" in answer for answer in answers)
    assert any("not there" not in answer for answer in answers)


def test_the_same_seed_writes_the_same_data(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        folder = tmp_path / name / "set"
        write_conversations(ImageSet(count=2, grids=(2,)), seed=seed, folder=folder)
    first, second, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in "abc"
    )
    assert first == second
    assert first != other


def test_a_table_is_row_by_row() -> None:
    scenes = [
        Scene(colour, "square") for colour in ("red", "white", "blue", "green", "pink", "cyan")
    ]
    table_YXC = draw_table(scenes, columns=3, cell=56, rng=np.random.default_rng(0))
    assert table_YXC.shape == (112, 168, 3)
    assert brightest_colour(table_YXC[:56, 112:]) == "blue"
    assert brightest_colour(table_YXC[56:, :56]) == "green"
    with pytest.raises(ValueError, match="do not fill rows"):
        draw_table(scenes, columns=4, cell=56, rng=np.random.default_rng(0))


def test_impossible_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ImageSet(count=0, grids=(1,))
    with pytest.raises(ValueError, match="cells"):
        ImageSet(count=1, grids=(0, 1))


def test_some_conversations_are_in_words(tmp_path: Path) -> None:
    images = ImageSet(count=4, grids=(2, 3), in_words=0.5)
    write_conversations(images, seed=0, folder=tmp_path)
    samples = read(tmp_path)
    assert [("image" in sample) for sample in samples] == [True] * 4 + [False] * 2
    for sample in samples[4:]:
        told, question = sample["conversations"][0]["value"].split("\n")
        assert told.count(".") in (2, 3)
        assert "<image>" not in told
        assert question.endswith("?")


def test_no_sample_is_longer_than_the_pretraining(tmp_path: Path) -> None:
    """Else alignment would stretch the context, also of the model that was not extended."""
    weights = checkpoint_of(get_recipe("tiny"))
    encode = SampleEncoder(
        AutoTokenizer.from_pretrained(weights),
        load_longva_config(weights).grids,
        sampling="1fps",
        video_fitting="letterbox",
        max_tokens=EXTENDED_TOKENS,
    )
    lengths = []
    for images, write in ((CONVERSATIONS, write_conversations), (CAPTIONS, write_captions)):
        write(dataclasses.replace(images, count=80), seed=0, folder=tmp_path)
        samples = read_samples([str(tmp_path / SAMPLES_FILE)], image_folder=None, seed=0)
        lengths += [len(encode(parse_sample(sample)).input_ids_T) for sample in samples]
    assert 0.8 * PRETRAINED_TOKENS < max(lengths) <= PRETRAINED_TOKENS
