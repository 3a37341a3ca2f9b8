"""Token shards: written once, read by memory map, and refused when they are not what they say."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from byte_tokenizer import byte_tokenizer
from token_shards import LENGTH, sequence, write_token_shards

from longva_ray.data.text.shards import TOKEN_SHARDS, TokenShardError, TokenShards, TokenShardWriter
from longva_ray.lm.fingerprints import tokenizer_fingerprint
from longva_ray.ring.layout import ZigzagLayout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_token_shards(
        tmp_path, [[sequence(0), sequence(10, (8,))], [sequence(20, (6, 2), padding=2)]]
    )
    return tmp_path


def test_rows_come_back_in_order_across_parts(folder: Path) -> None:
    shards = TokenShards(folder)
    assert len(shards) == 3
    assert [row.input_ids_T[0] for row in shards] == [0, 10, 20]
    assert [row.document_lengths for row in shards] == [(3, 5), (8,), (6, 2)]
    assert [row.num_padding for row in shards] == [0, 0, 2]
    np.testing.assert_array_equal(shards[-1].input_ids_T, np.arange(20, 28))
    assert shards[1].input_ids_T.dtype == np.int32
    assert shards.metadata.largest_id == 27
    with pytest.raises(IndexError):
        shards[3]


def test_a_layout_takes_the_lengths_as_they_are(folder: Path) -> None:
    row = TokenShards(folder)[2]
    layout = ZigzagLayout(document_lengths=row.document_lengths, world_size=2)
    assert layout.padded_tokens == LENGTH
    assert layout.document_starts == (0, 6, 8)


def test_rows_are_views_on_mapped_pages(folder: Path) -> None:
    ids_T = TokenShards(folder)[1].input_ids_T
    assert not ids_T.flags.owndata
    assert not ids_T.flags.writeable


def test_shards_travel_by_name(folder: Path) -> None:
    shards = TokenShards(folder)
    assert shards[0].document_lengths == (3, 5)
    content = pickle.dumps(shards)
    assert len(content) < 500
    assert pickle.loads(content)[2].num_padding == 2


def test_a_uri_is_read_like_a_folder(folder: Path) -> None:
    shards = TokenShards(f"file://{folder}")
    assert [row.input_ids_T[0] for row in shards] == [0, 10, 20]


def test_what_is_no_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenShardError, match="no folder of token shards"):
        TokenShards(tmp_path)
    with pytest.raises(TokenShardError, match="no folder of token shards"):
        TokenShards(tmp_path / "absent")
    (tmp_path / TOKEN_SHARDS.manifest).write_text("{}")
    with pytest.raises(TokenShardError, match="not a manifest"):
        TokenShards(tmp_path)


def test_a_part_that_was_cut_short_is_noticed(folder: Path) -> None:
    part = folder / "part-00001.arrow"
    part.write_bytes(part.read_bytes()[:-1])
    shards = TokenShards(folder)
    assert shards[1].input_ids_T[0] == 10
    with pytest.raises(TokenShardError, match="cut short"):
        shards[2]
    part.unlink()
    with pytest.raises(TokenShardError, match="is gone"):
        TokenShards(folder)[2]


def test_every_part_is_verified(folder: Path) -> None:
    assert list(TokenShards(folder).verify()) == [None, None]
    part = folder / "part-00000.arrow"
    content = part.read_bytes()
    part.write_bytes(content[:200] + bytes(len(content) - 200))  # as long as before
    damaged, whole = TokenShards(folder).verify()
    assert (type(damaged), whole) == (TokenShardError, None)
    assert "part-00000.arrow" in str(damaged)


def test_a_part_of_another_run_is_noticed_and_not_resumed(folder: Path) -> None:
    other = TokenShardWriter(str(folder), content_key="q", sequence_length=LENGTH)
    ours = TokenShardWriter(str(folder), content_key="k", sequence_length=LENGTH)
    assert ours.existing_part(0, 2) is not None
    assert ours.existing_part(0, 1) is None
    assert ours.existing_part(7, 2) is None
    assert other.existing_part(0, 2) is None
    other.write_part(1, [sequence(20, (6, 2), padding=2)])
    with pytest.raises(TokenShardError, match="another run"):
        TokenShards(folder)[2]


def test_another_tokenizer_is_refused(folder: Path) -> None:
    shards = TokenShards(folder)
    shards.check_tokenizer(byte_tokenizer())
    other = byte_tokenizer()
    other.add_tokens(["<new>"])
    with pytest.raises(TokenShardError, match="prepare the text again"):
        shards.check_tokenizer(other)


def test_the_fingerprint_survives_saving_and_calls_that_pad(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = byte_tokenizer()
    before = tokenizer_fingerprint(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_fingerprint(AutoTokenizer.from_pretrained(tmp_path)) == before
    tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=2)
    assert tokenizer_fingerprint(tokenizer) == before


@pytest.mark.parametrize(
    ("lengths", "padding"), [((3, 4), 0), ((), 0), ((8, 0), 0), ((6, 2), 1), ((-1, 9), 0)]
)
def test_a_sequence_that_does_not_add_up(lengths: tuple[int, ...], padding: int) -> None:
    with pytest.raises(ValueError, match="document"):
        sequence(0, lengths, padding)
