"""Needles of the visual test: an image, a question that finds it, and the answer.

    JSON | Parquet | Hugging Face dataset on disk -> needles; a seed -> cards with numbers

Columns are those of the published set `lmms-lab/v_niah_needles` (image, question, answer); the JSON
file that it was made from calls them path, prompt and answer, which is read too. Images lie inside
the table or next to it.

Published needles are partly multiple choice and can be guessed; `draw_cards` makes ones that
cannot: the answer is a number drawn from the seed, on a card whose colour and word the question
names.

Shapes: K needles, Y rows, X columns, C colour channels, Q visual tokens of a frame, D width of the
language model.
"""

import io
import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet
import torch
from PIL import Image, ImageDraw, ImageFont

from longva_ray.files.digest import Digest
from longva_ray.files.places import check_file, read_file
from longva_ray.files.tables import each_once, named_twice
from longva_ray.lm.layout import load_longva_config
from longva_ray.lm.load import load_frame_encoder
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.vision.fit_image import whole_image
from longva_ray.vision.upright_image import upright_rgb

COLUMNS = {
    "image": ("image", "path"),
    "question": ("question", "prompt"),
    "answer": ("answer",),
}
"""Names under which each column is known."""

_KNOWN = tuple(itertools.chain(*COLUMNS.values()))


WORDS = ("harbour", "violin", "pepper", "comet", "ladder", "tulip", "anchor", "walnut", "kettle")


@dataclass(frozen=True, kw_only=True, slots=True)
class Needle:
    """One frame that is put into the haystack, and what is asked about it."""

    image_YXC: npt.NDArray[np.uint8]
    question: str
    answer: str


def read_needles(place: str | Path) -> list[Needle]:
    """Needles of a .json or .parquet file, or of a folder with .parquet or .arrow files.

    Raises ValueError when it holds none, lacks a column or has it twice, or an image cannot be
    read.
    """
    path = Path(place)
    if not path.is_dir():
        check_file(path)
    if path.suffix == ".json" and path.is_file():
        rows: list[Mapping[str, Any]] = json.loads(
            path.read_text(encoding="utf-8"), object_pairs_hook=each_once(_KNOWN)
        )
    else:
        rows = [row for table in _tables(path) for row in table.to_pylist()]
    if not rows:
        raise ValueError(
            f"no needles in {path}; want a .json or .parquet file, or a folder of a dataset, with "
            "the columns image, question, answer"
        )
    folder = path if path.is_dir() else path.parent
    return [_needle(row, folder, f"needle {number} of {path}") for number, row in enumerate(rows)]


def draw_cards(count: int, *, seed: int, side: int = 448) -> list[Needle]:
    """Cards of different colours and words, with a number of four digits each: unguessable.

    Raises ValueError for more cards than there are colours.
    """
    if not 1 <= count <= len(COLORS):
        raise ValueError(f"{count} cards; want 1 to {len(COLORS)}, a colour for each")
    rng = random.Random(f"cards {seed}")
    colours, words = rng.sample(sorted(COLORS), count), rng.sample(WORDS, count)
    numbers = rng.sample(range(1000, 10_000), count)
    return [
        Needle(
            image_YXC=_draw_card(colour, word, number, side),
            question=(
                f"Find the frame with the {colour} card that says {word}. Which number is on it?\n"
                "Answer the question using a single number."
            ),
            answer=str(number),
        )
        for colour, word, number in zip(colours, words, numbers, strict=True)
    ]


def encode_needles(
    checkpoint: str, images: Sequence[npt.NDArray[np.uint8]], config: EncodeConfig
) -> torch.Tensor:
    """Visual tokens KQD of needle images, by the encoder that encoded the haystack."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = load_frame_encoder(checkpoint, dtype=getattr(torch, config.dtype)).to(device)
    fitting = config.fitting or load_longva_config(checkpoint).fitting_of_videos
    frames = [
        whole_image(
            Image.fromarray(image_YXC),
            fitting=fitting,
            grid_size=encoder.grid_size,
            resize=config.resize,
        )
        for image_YXC in images
    ]
    return encoder.encode(np.concatenate(frames), micro_batch=config.micro_batch).cpu()


def digest(needles: Sequence[Needle]) -> str:
    """16 hex digits over images, questions and answers."""
    hashed = Digest(num_bytes=8)
    for needle in needles:
        hashed.add(f"{needle.image_YXC.shape} {needle.question} {needle.answer}")
        hashed.add(np.ascontiguousarray(needle.image_YXC).data)
    return hashed.hex()


def _tables(path: Path) -> Iterator[pa.Table]:
    files = [path] if path.is_file() else sorted(path.rglob("*.*"))
    for file in files:
        if file.suffix == ".parquet":
            with pyarrow.parquet.ParquetFile(file) as source:
                yield _checked(source.read(), file)
        elif file.suffix == ".arrow":  # what `datasets` saves is a stream, not a file
            with pa.memory_map(str(file)) as source:
                yield _checked(pa.ipc.open_stream(source).read_all(), file)


def _checked(table: pa.Table, file: Path) -> pa.Table:
    twice = named_twice(table.schema, _KNOWN)
    if twice:
        raise ValueError(f"{file}: {twice}")
    return table.select([name for name in table.column_names if name in _KNOWN])


def _needle(row: Mapping[str, Any], folder: Path, where: str) -> Needle:
    values = {}
    for column, names in COLUMNS.items():
        found = [row[name] for name in names if row.get(name) is not None]
        if not found:
            raise ValueError(f"{where} has no {' or '.join(names)}; its columns are {sorted(row)}")
        values[column] = found[0]
    return Needle(
        image_YXC=_read_image(values["image"], folder, where),
        # The template itself puts a newline between the frames and the question.
        question=str(values["question"]).lstrip("\n"),
        answer=str(values["answer"]),
    )


def _read_image(value: Any, folder: Path, where: str) -> npt.NDArray[np.uint8]:
    """Bytes, a path, or a record of either."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    try:
        content = value if isinstance(value, bytes) else read_file(str(folder / str(value)))
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(upright_rgb(image))
    except Exception as error:  # decoders raise errors of any kind for damaged files
        kind = type(error).__name__
        raise ValueError(f"the image of {where} cannot be read: {kind}: {error}") from error


def _draw_card(colour: str, word: str, number: int, side: int) -> npt.NDArray[np.uint8]:
    picture = Image.new("RGB", (side, side), COLORS[colour])
    draw = ImageDraw.Draw(picture)
    for text, height, share in ((word, 0.28, 0.14), (str(number), 0.62, 0.3)):
        font = ImageFont.load_default(size=side * share)
        draw.text((side / 2, side * height), text, fill="white", font=font, anchor="mm")
    return np.asarray(picture)


COLORS: Mapping[str, tuple[int, int, int]] = {
    "red": (200, 30, 30),
    "green": (20, 130, 50),
    "blue": (30, 60, 200),
    "orange": (235, 130, 20),
    "purple": (120, 40, 160),
    "teal": (0, 135, 140),
    "brown": (115, 70, 35),
    "gray": (110, 110, 110),
}
