"""Folders of frames and images in the store: their tokens are those of a video, or of alignment;
and the pixels that they were made of."""

from pathlib import Path
from typing import Literal

import pytest
import torch
from PIL import Image
from vision_world import TOKENS_PER_GRID, write_base, write_image

from longva_ray.data.images.chat import Item, SampleError
from longva_ray.data.preferences.frame_folders import EncodeFolder, FolderResult
from longva_ray.data.preferences.pixels import MediaPixels
from longva_ray.data.preferences.seen import MediaTokens, Medium
from longva_ray.lm.layout import load_longva_config
from longva_ray.lm.load import load_frame_encoder
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.shards.image_encoder import EncodeImage
from longva_ray.shards.store import ShardStore
from longva_ray.shards.workers import EncodeFrames, describe_encoder, encode_one_video
from longva_ray.vision.encoding import Encoding

CONFIG = EncodeConfig(dtype="float32", encoder_gpus=0, part_frames=2)


def tokens_of(folder: Path, base: str, medium: Medium, most: int | None = None) -> torch.Tensor:
    """Of an item in the store, all of them: (S, D)."""
    spec, grids = describe_encoder(base, CONFIG), load_longva_config(base).grids
    tokens = MediaTokens(str(folder / "store"), spec, grids)
    frames_F = tokens.frames(medium, most)
    return tokens.take(medium, frames_F, torch.arange(tokens.count(medium, frames_F)))


def encode(folder: Path, base: str) -> FolderResult:
    spec = describe_encoder(base, CONFIG)
    return EncodeFolder(base, CONFIG, str(folder.parent / "store"), spec)(0, str(folder))


def test_a_folder_of_frames_is_a_video_of_all_of_them(tmp_path: Path) -> None:
    base, folder = write_base(tmp_path / "base"), tmp_path / "v_1"
    folder.mkdir()
    for number in range(5):
        write_image(folder / f"{number}.png", 1, 1, seed=number)
    (folder / "notes.txt").write_text("not a picture")
    found = encode(folder, base)
    assert not found.error
    medium = Medium("frames", found.video_id)
    tokens_SD = tokens_of(tmp_path, base, medium)
    encoder = load_frame_encoder(base, dtype=torch.float32)
    for number, tokens_QD in enumerate(tokens_SD.split(TOKENS_PER_GRID)):
        pixels = torch.tensor(list(Image.open(folder / f"{number}.png").tobytes()))
        frame_FYXC = pixels.view(1, 56, 56, 3).to(torch.uint8)
        with torch.no_grad():
            torch.testing.assert_close(tokens_QD, encoder(frame_FYXC)[0], rtol=1e-4, atol=1e-5)
    assert number == 4
    some_SD = tokens_of(tmp_path, base, medium, most=3)
    assert torch.equal(some_SD, tokens_SD.view(5, 4, -1)[::2].flatten(0, 1))


@pytest.mark.parametrize("encoding", ["unires", "anyres"])
def test_an_image_has_the_tokens_of_alignment(tmp_path: Path, encoding: Encoding) -> None:
    base = write_base(tmp_path / "base", encoding)
    write_image(tmp_path / "a.png", 3, 2, seed=0)
    worker = EncodeImage(base, CONFIG, str(tmp_path / "store"))
    row = worker({"path": [str(tmp_path / "a.png")]})
    tokens_SD = tokens_of(tmp_path, base, Medium("image", row["image_id"][0]))
    grids = load_longva_config(base).grids
    with Image.open(tmp_path / "a.png") as image:
        cut = grids.image(image)
    assert len(tokens_SD) == len(cut.source_S2)
    encoder = load_frame_encoder(base, dtype=torch.float32)
    with torch.no_grad():
        expected_SD = encoder.encode_images(cut.grids_GYXC, torch.from_numpy(cut.source_S2))
    torch.testing.assert_close(tokens_SD, expected_SD, rtol=1e-4, atol=1e-5)


def check_pixels(folder: Path, base: str, place: str, medium: Medium, most: int | None) -> None:
    """The encoder makes the store's tokens of the pixels."""
    spec, grids = describe_encoder(base, CONFIG), load_longva_config(base).grids
    kind: Literal["image", "video"] = "image" if medium.kind == "image" else "video"
    frames_F = MediaTokens(str(folder / "store"), spec, grids).frames(medium, most)
    cut = MediaPixels(spec, grids)(Item(kind=kind, place=place), medium, frames_F)
    encoder = load_frame_encoder(base, dtype=torch.float32)
    with torch.no_grad():
        tokens_SD = encoder.encode_images(cut.grids_GYXC, torch.from_numpy(cut.source_S2))
    expected_SD = tokens_of(folder, base, medium, most)
    torch.testing.assert_close(tokens_SD, expected_SD, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoding", ["unires", "anyres"])
def test_pixels_are_those_that_the_tokens_were_made_of(tmp_path: Path, encoding: Encoding) -> None:
    pytest.importorskip("av")
    from longva_ray.tiny.videos import write_haystack

    base = write_base(tmp_path / "base", encoding)
    write_image(tmp_path / "a.png", 3, 2, seed=0)
    image = EncodeImage(base, CONFIG, str(tmp_path / "store"))({"path": [str(tmp_path / "a.png")]})
    medium = Medium("image", image["image_id"][0])
    check_pixels(tmp_path, base, str(tmp_path / "a.png"), medium, None)

    folder, video = tmp_path / "v_1", tmp_path / "v.mp4"
    folder.mkdir()
    for number in range(5):
        write_image(folder / f"{number}.png", 2, 1, seed=number)
    frames = Medium("frames", encode(folder, base).video_id)
    write_haystack(video, seconds=7, seed=0)
    record = encode_one_video(
        str(video),
        ShardStore(tmp_path / "store"),
        describe_encoder(base, CONFIG),
        EncodeFrames(base, CONFIG),
    )
    film = Medium("video", record.video_id)
    for most in (None, 3):
        check_pixels(tmp_path, base, str(folder), frames, most)
        check_pixels(tmp_path, base, str(video), film, most)

    write_image(folder / "0.png", 2, 1, seed=9)
    (tmp_path / "a.png").write_bytes((folder / "0.png").read_bytes())
    write_haystack(video, seconds=7, seed=1)
    places = {str(folder): frames, str(video): film, str(tmp_path / "a.png"): medium}
    for place, changed in places.items():
        with pytest.raises(SampleError, match="changed while it was encoded"):
            check_pixels(tmp_path, base, place, changed, None)


def test_a_folder_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    for name in ("empty", "bad"):
        (tmp_path / name).mkdir()
    (tmp_path / "bad" / "1.png").write_bytes(b"no image")
    assert encode(tmp_path / "empty", base).error == "no pictures in this folder"
    assert "frame 1" in encode(tmp_path / "bad", base).error
    assert encode(tmp_path / "gone", base).error == "no pictures in this folder"
