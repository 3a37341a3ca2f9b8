"""Rows of preference shards: their log-probabilities by plain transformers, and bad pairs by
name."""

from pathlib import Path

import pytest
import torch
from preference_world import (
    PAIRS,
    pair,
    plain_logprobs,
    scorer,
    write_base,
    write_pairs,
    write_preferences,
    write_world,
)

from longva_ray.data.images.chat import read_samples
from longva_ray.data.preferences.shards import PreferenceShardError, PreferenceShards
from longva_ray.lm.load import load_longva


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("preferences"))


def test_stored_log_probabilities_are_those_of_plain_transformers(world: Path) -> None:
    model, processor = load_longva(world / "base", dtype=torch.float32, attn_implementation="sdpa")
    for row, (name, _, _, *answers) in zip(PreferenceShards(world / "shards"), PAIRS, strict=True):
        assert row.pair_id == name
        likely = [float(each.detach()) for each in plain_logprobs(world, model, row)]
        assert row.reference == pytest.approx(likely, abs=1e-3)
        documents = torch.from_numpy(row.input_ids_T.copy()).split(row.document_lengths)
        for ids_T, length, answer in zip(documents, row.answer_lengths, answers, strict=True):
            assert processor.tokenizer.decode(ids_T[-length:]) == f"{answer}<|im_end|>"


def test_shards_say_what_is_in_them(world: Path) -> None:
    shards = PreferenceShards(world / "shards")
    data = shards.metadata
    assert (data.num_samples, data.num_left_out) == (5, 0)
    assert data.num_tokens == sum(len(row.input_ids_T) for row in shards)
    assert data.num_trained == sum(sum(row.answer_lengths) for row in shards)
    assert [len(row.frames_F) for row in shards] == [3, 12, 7, 0, 3]
    assert data.spec.tokens_per_frame == 4
    assert (data.row_grids, data.row_tokens) == ((), ())
    assert all(row.cut is None for row in shards)
    assert list(shards.verify()) == [None]


def test_pixels_and_a_live_reference_change_nothing_else(world: Path) -> None:
    samples = read_samples([str(world / "pairs.jsonl")], image_folder=None, seed=0)
    write_preferences(world, samples, inside="live", live=True, pixels=True, frames=4)
    write_preferences(world, samples, inside="plain", frames=4)
    live, plain = (PreferenceShards(world / name) for name in ("live", "plain"))
    assert live.metadata.row_grids == (3, 4, 4, 6, 3)
    assert live.metadata.row_tokens == tuple(len(row.input_ids_T) for row in plain)
    assert list(live.verify()) == [None]
    for found, row in zip(live, plain, strict=True):
        assert found.reference == ()
        assert found.cut is not None
        assert len(found.cut.source_S2) == 4 * len(found.cut.grids_GYXC)
        assert found.input_ids_T.tolist() == row.input_ids_T.tolist()
        assert (found.medium, found.answer_lengths) == (row.medium, row.answer_lengths)


def test_frames_are_spread_evenly(world: Path) -> None:
    samples = read_samples([str(world / "pairs.jsonl")], image_folder=None, seed=0)
    row = scorer(world, frames=4).score(samples[1])
    assert row.frames_F.tolist() == [0, 3, 7, 11]


def test_a_pair_that_cannot_be_used_is_left_out_by_name(tmp_path: Path) -> None:
    good = pair(*PAIRS[0])
    records = [
        good,
        {**good, "id": "same", "rejected": good["chosen"]},
        {**good, "id": "gone", "video": "gone.mp4"},
        {**good, "id": "long", "chosen": "word " * 200},
        [],
        {**good, "id": "last"},
    ]
    write_base(tmp_path / "base")
    samples = read_samples([str(write_pairs(tmp_path, records))], image_folder=None, seed=0)
    result = write_preferences(tmp_path, samples)
    reasons = {each.sample_id: each.reason for each in result.left_out}
    expected = {
        "same": "both answers are the same",
        "gone": "gone.mp4: does not exist",
        "long": r"tokens are more than a document holds (500)",
        "pairs.jsonl#4": "want an object",
    }
    assert list(reasons) == list(expected)
    for name, reason in expected.items():
        assert reason in reasons[name]
    assert [row.pair_id for row in PreferenceShards(tmp_path / "shards")] == ["one", "last"]
    with pytest.raises(PreferenceShardError, match=r"sample same: .*preferences.on-error skip"):
        write_preferences(tmp_path, samples, stop=True)
