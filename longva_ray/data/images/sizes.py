"""How large images are, and how many grids and visual tokens each encoding makes of them.

    a folder, or LLaVA's JSON -> places of images -> width, height -> grids and tokens

Section 5.3 of the paper explains scores on image benchmarks by this: UniRes has a quarter of the
tokens a grid, but up to 49 grids, AnyRes up to 4. Reads the beginning of each file, and no pixels.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from longva_ray.data.images.chat import SampleError, parse_sample, read_samples
from longva_ray.files.places import is_uri, local_file
from longva_ray.vision.encoding import MAX_GRIDS, Encoding, GridSettings

READERS = 16
"""Threads: they mostly wait for a disk or a store."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImageSizes:
    """The images of one dataset."""

    name: str
    width_height_N2: np.ndarray
    """Pixels, upright."""
    left_out: Mapping[str, str]
    """Why an image or a sample could not be measured."""


def measure_images(place: str, *, image_folder: str | None) -> ImageSizes:
    """Sizes of the images below a folder, or of those that LLaVA's JSON names.

    Raises ValueError when there are none.
    """
    places, left_out = _images(place, image_folder)
    with ThreadPoolExecutor(READERS) as pool:
        measured = dict(zip(places, pool.map(_size, places), strict=True))
    left_out |= {each: found for each, found in measured.items() if isinstance(found, str)}
    sizes = [found for found in measured.values() if not isinstance(found, str)]
    if not sizes:
        raise ValueError(f"no images in {place}; {len(left_out)} could not be read")
    name = Path(place).stem
    return ImageSizes(name=name, width_height_N2=np.array(sizes), left_out=left_out)


def summarise(sizes: ImageSizes, grids: GridSettings) -> dict[str, Any]:
    """What a report says of a dataset, under both encodings."""
    encodings: tuple[Encoding, ...] = ("unires", "anyres")
    counted: dict[str, Any] = {
        encoding: _counted(
            sizes,
            dataclasses.replace(grids, encoding=encoding, max_grids=MAX_GRIDS[encoding]),
        )
        for encoding in encodings
    }
    return {
        "name": sizes.name,
        "images": len(sizes.width_height_N2),
        "median_width_height": np.median(sizes.width_height_N2, axis=0).tolist(),
        **counted,
        "left_out": dict(sizes.left_out),
    }


def _counted(sizes: ImageSizes, grids: GridSettings) -> dict[str, Any]:
    found = [grids.count(*map(int, size)) for size in sizes.width_height_N2]
    return {
        "mean_grids": sum(number for number, _ in found) / len(found),
        "mean_tokens": sum(tokens for _, tokens in found) / len(found),
        "most_tokens": max(tokens for _, tokens in found),
        "images_by_grids": dict(sorted(Counter(number for number, _ in found).items())),
    }


def _images(place: str, image_folder: str | None) -> tuple[list[str], dict[str, str]]:
    """Every image once, and samples that name none."""
    if not is_uri(place) and Path(place).is_dir():
        suffixes = Image.registered_extensions()
        files = sorted(Path(place).rglob("*"))
        return [str(file) for file in files if file.suffix.lower() in suffixes], {}
    images: dict[str, None] = {}
    left_out = {}
    for raw in read_samples([place], image_folder=image_folder, seed=0):
        try:
            items = parse_sample(raw).items
        except SampleError as error:
            left_out[raw.sample_id] = str(error)
        else:
            images |= dict.fromkeys(item.place for item in items if item.kind == "image")
    return list(images), left_out


def _size(place: str) -> tuple[int, int] | str:
    """Width and height, upright, or why they cannot be had."""
    try:
        with local_file(place) as file, Image.open(file) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (image.height, image.width) if turned else (image.width, image.height)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return str(error)
