"""Sizes of images: measured upright, counted as they are encoded, drawn."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from longva_ray.data.images.sizes import ImageSizes, measure_images, summarise
from longva_ray.data.images.sizes_figure import draw_sizes
from longva_ray.vision.encoding import GridSettings

LONGVA_7B = GridSettings(
    grid_size=336,
    tokens_per_grid=144,
    max_grids=49,
    grid_rule="paper",
    frame_fitting="letterbox",
)


def save(path: Path, width: int, height: int, orientation: int = 1) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (width, height)).save(path, exif=exif)


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    save(tmp_path / "a.jpg", 640, 480)
    save(tmp_path / "b.JPG", 640, 480, orientation=6)
    save(tmp_path / "inside" / "c.png", 10, 20, orientation=3)
    (tmp_path / "bad.png").write_bytes(b"not an image")
    (tmp_path / "notes.txt").write_text("no image either")
    sizes = measure_images(str(tmp_path), image_folder=None)
    assert sizes.width_height_N2.tolist() == [[640, 480], [480, 640], [10, 20]]
    (bad,) = sizes.left_out
    assert Path(bad).name == "bad.png"


def test_the_images_of_a_json_file_each_once(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", 640, 480)

    def sample(number: int, image: str) -> dict[str, object]:
        turns = [{"from": "human", "value": "<image>\n?"}, {"from": "gpt", "value": "yes"}]
        return {"id": str(number), "image": image, "conversations": turns}

    samples = [sample(0, "a.jpg"), sample(1, "a.jpg"), sample(2, "gone.jpg"), {"id": "3"}]
    path = tmp_path / "mix.json"
    path.write_text(json.dumps(samples))
    sizes = measure_images(str(path), image_folder=None)
    assert (sizes.name, sizes.width_height_N2.tolist()) == ("mix", [[640, 480]])
    assert set(sizes.left_out) == {"3", f"{tmp_path}/gone.jpg"}
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="no images in "):
        measure_images(str(tmp_path / "none"), image_folder=None)


def test_a_report_and_its_figure(tmp_path: Path) -> None:
    sizes = ImageSizes(
        name="some", width_height_N2=np.array([[336, 336], [672, 672], [2400, 2400]]), left_out={}
    )
    report = summarise(sizes, LONGVA_7B)
    assert (report["images"], report["median_width_height"]) == (3, [672, 672])
    assert report["unires"] == {
        "mean_grids": 54 / 3,
        "mean_tokens": 54 * 144 / 3,
        "most_tokens": 49 * 144,
        "images_by_grids": {1: 1, 4: 1, 49: 1},
    }
    # 672 x 672 has 576 + 48 * 49 tokens (LLaVA-NeXT); one grid is shown twice.
    assert report["anyres"]["images_by_grids"] == {2: 1, 5: 2}
    assert report["anyres"]["most_tokens"] == 2928
    draw_sizes([sizes, sizes], [report, report], tmp_path / "two.png")
    draw_sizes([sizes], [report], tmp_path / "one.png")
    with Image.open(tmp_path / "two.png") as two, Image.open(tmp_path / "one.png") as one:
        assert two.height == 2 * one.height
