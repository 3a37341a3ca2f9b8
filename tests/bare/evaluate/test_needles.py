"""Needle datasets in every form that they come in, and cards that cannot be guessed."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from longva_ray.evaluate.video.needles import (
    COLORS,
    digest,
    draw_cards,
    encode_needles,
    read_needles,
)
from longva_ray.lm.load import load_frame_encoder
from longva_ray.recipes import get_recipe
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.settings.needles import VniahConfig
from longva_ray.video.fitting import FITTINGS, Fitting
from longva_ray.vision.fit_image import whole_image

COLOURS = ["red", "blue"]


@pytest.fixture
def pictures(tmp_path: Path) -> list[bytes]:
    """PNG files next to the table, and their bytes."""
    encoded = []
    for number, colour in enumerate(COLOURS):
        buffer = io.BytesIO()
        Image.new("RGB", (40, 20), COLORS[colour]).save(buffer, "PNG")
        (tmp_path / f"{number}.png").write_bytes(buffer.getvalue())
        encoded.append(buffer.getvalue())
    return encoded


def write(form: str, folder: Path, pictures: list[bytes]) -> Path:
    questions, answers = ["\nWhich colour?", "And here?"], COLOURS
    if form in ("json", "reference json"):
        names = ("image", "question", "answer") if form == "json" else ("path", "prompt", "answer")
        rows = [
            dict(zip(names, (f"{number}.png", question, answer), strict=True))
            for number, (question, answer) in enumerate(zip(questions, answers, strict=True))
        ]
        (folder / "needles.json").write_text(json.dumps(rows))
        return folder / "needles.json"
    table = pa.table(
        {
            "image": [{"bytes": picture, "path": None} for picture in pictures],
            "question": questions,
            "answer": answers,
        }
    )
    if form == "datasets":  # as save_to_disk leaves it
        with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
            writer.write_table(table)
        (folder / "state.json").write_text("{}")
        return folder
    (folder / "data").mkdir()
    pyarrow.parquet.write_table(table, folder / "data" / "test-00000-of-00001.parquet")
    return folder if form == "hub" else folder / "data" / "test-00000-of-00001.parquet"


@pytest.mark.parametrize("form", ["json", "reference json", "parquet", "hub", "datasets"])
def test_every_form_gives_the_same_needles(
    tmp_path: Path, pictures: list[bytes], form: str
) -> None:
    needles = read_needles(write(form, tmp_path, pictures))
    assert [needle.question for needle in needles] == ["Which colour?", "And here?"]
    assert [needle.answer for needle in needles] == COLOURS
    for needle, colour in zip(needles, COLOURS, strict=True):
        assert needle.image_YXC.shape == (20, 40, 3)
        assert (needle.image_YXC == COLORS[colour]).all()
    reference = read_needles(write("json", tmp_path, pictures))
    assert digest(needles) == digest(reference)
    assert digest(needles) != digest(needles[:1])


def test_what_is_no_needle_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no needles in"):
        read_needles(tmp_path)
    table = tmp_path / "needles.json"
    table.write_text(json.dumps([{"image": "gone.png", "question": "?", "answer": "!"}]))
    with pytest.raises(ValueError, match="image of needle 0"):
        read_needles(table)
    table.write_text(json.dumps([{"image": "gone.png", "question": "?"}]))
    with pytest.raises(ValueError, match=r"needle 0 of .* has no answer"):
        read_needles(table)


def test_cards_differ_and_their_numbers_come_from_the_seed() -> None:
    cards, again, others = draw_cards(5, seed=0), draw_cards(5, seed=0), draw_cards(5, seed=1)
    assert digest(cards) == digest(again) != digest(others)
    assert len({card.answer for card in cards}) == len({card.question for card in cards}) == 5
    assert not {card.answer for card in cards} & {card.answer for card in others}
    for card in cards:
        assert card.answer not in card.question
        white = (card.image_YXC > 240).all(axis=-1).mean()
        assert 0.02 < white < 0.4  # a word and a number are drawn on it
    with pytest.raises(ValueError, match="100 cards"):
        draw_cards(100, seed=0)


def test_a_picture_lying_on_its_side_is_read_upright(tmp_path: Path) -> None:
    lying = Image.new("RGB", (40, 20))
    exif = lying.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    lying.save(tmp_path / "lying.jpg", exif=exif)
    rows = [{"image": "lying.jpg", "question": "?", "answer": "!"}]
    (tmp_path / "needles.json").write_text(json.dumps(rows))
    (needle,) = read_needles(tmp_path / "needles.json")
    assert needle.image_YXC.shape == (40, 20, 3)


@pytest.mark.parametrize("fitting", [None, *FITTINGS])
def test_needles_become_tokens_of_the_checkpoints_own_encoder(
    tiny_checkpoint: str, fitting: Fitting | None
) -> None:
    images = [card.image_YXC[: 20 + 9 * k] for k, card in enumerate(draw_cards(3, seed=0))]
    config = EncodeConfig(dtype="float32", fitting=fitting)
    tokens_KQD = encode_needles(tiny_checkpoint, images, config)
    encoder = load_frame_encoder(tiny_checkpoint, dtype=torch.float32)
    frame = whole_image(Image.fromarray(images[1]), fitting=fitting or "letterbox", grid_size=56)
    wanted_QD = encoder.encode(frame, micro_batch=1)[0]
    torch.testing.assert_close(tokens_KQD[1], wanted_QD, atol=1e-5, rtol=1e-5)


def test_the_test_has_a_fitting_of_its_own_and_never_two() -> None:
    """The paper pads the frames of V-NIAH and crops those of chat and benchmarks."""
    recipe = get_recipe("longva_7b")
    assert recipe.encode.fitting is None  # as the checkpoint says
    assert recipe.vniah.encoding(recipe.encode).fitting == "letterbox_mean"
    squash = EncodeConfig(fitting="squash")
    assert VniahConfig().encoding(squash) == squash
    with pytest.raises(ValueError, match=r"give --vniah\.fitting squash"):
        recipe.vniah.encoding(squash)
    with pytest.raises(ValueError, match="fitting is 'crop'; wanted one of"):
        EncodeConfig(fitting="crop")  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, suffix: str) -> None:
    """Which of the two is meant is unknown; a column that is not read may be there twice."""
    columns = {"image": b"", "question": "?", "answer": "red", "note": "a"}
    for twice in ("answer", "note"):
        arrays = [pa.array([value]) for value in (*columns.values(), columns[twice])]
        table = pa.Table.from_arrays(arrays, names=[*columns, twice])
        file = tmp_path / f"needles{suffix}"
        if suffix == ".parquet":
            pyarrow.parquet.write_table(table, file)
        else:
            with pa.ipc.new_stream(str(file), table.schema) as writer:
                writer.write_table(table)
        refusal = "the image of needle 0" if twice == "note" else "are named 'answer'"
        with pytest.raises(ValueError, match=refusal):
            read_needles(file)
