"""Pairs of the tiny world: what is preferred in them."""

from pathlib import Path

import pytest

from longva_ray.data.images.chat import read_samples
from longva_ray.data.preferences.pairs import parse_pair
from longva_ray.tiny.pairs import PAIRS_FILE, Preference, write_pairs
from longva_ray.tiny.world import COLOURS

pytest.importorskip("av")


@pytest.mark.parametrize("preference", ["colour", "short"])
def test_pairs_are_about_their_videos(tmp_path: Path, preference: Preference) -> None:
    write_pairs(tmp_path, videos=2, seed=3, preference=preference)
    samples = read_samples([str(tmp_path / PAIRS_FILE)], image_folder=None, seed=0)
    assert len(samples) == 8
    for sample in samples:
        pair = parse_pair(sample)
        assert Path(pair.item.place).exists()
        chosen, rejected = (str(each[-1]["content"]) for each in (pair.chosen, pair.rejected))
        letter = sample.sample_id.partition("-")[2]
        if preference == "short":
            assert chosen.removesuffix(".") in COLOURS
            assert rejected == f"the {letter} {chosen}"
        else:
            before, other = chosen.split(), rejected.split()
            assert before[:2] == other[:2] == ["the", letter]
            assert before[2] != other[2]


def test_an_unknown_preference_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="colour, short"):
        write_pairs(tmp_path, videos=2, seed=0, preference="long")  # type: ignore[arg-type]
