"""Text preparation on a real Ray cluster: exact, and the same whatever runs in parallel."""

import collections
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from byte_tokenizer import byte_tokenizer
from text_world import CONFIG, prepare, shard_files, texts_of, write_jsonl

from longva_ray.data.text.files import TextError
from longva_ray.data.text.pipeline import prepare_text
from longva_ray.data.text.report import read_report
from longva_ray.data.text.shards import TokenShardError, TokenShards

EOS, PAD, TURN_START = 258, 256, 257


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files, of which one is compressed, and two empty documents."""
    folder = tmp_path_factory.mktemp("texts")
    records = texts_of(0)
    write_jsonl(folder / "a.jsonl", records[:150])
    write_jsonl(folder / "b.jsonl.zst", records[150:300])
    write_jsonl(folder / "c.jsonl", records[300:], blank=2)
    return folder


def texts_in(output: Path) -> set[str]:
    return set(packed_documents(output)[0])


def packed_documents(output: Path) -> tuple[list[str], int]:
    """Documents of the shards, put together again by their separators, and the padding."""
    shards = TokenShards(output)
    ids = np.concatenate([s.input_ids_T[: len(s.input_ids_T) - s.num_padding] for s in shards])
    padding = [s.input_ids_T[len(s.input_ids_T) - s.num_padding :] for s in shards]
    assert all((each == PAD).all() for each in padding)
    assert ids[-1] == EOS
    pieces = np.split(ids, np.flatnonzero(ids == EOS) + 1)[:-1]
    return [bytes(piece[:-1].tolist()).decode() for piece in pieces], sum(map(len, padding))


@pytest.fixture(scope="module")
def prepared(
    ray_cluster: str, texts: Path, tokenizer_folder: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("prepared") / "tokens"
    prepare(texts, output, tokenizer_folder)
    return output


def test_every_token_is_accounted_for(prepared: Path) -> None:
    records = texts_of(0)
    report = read_report(str(prepared))
    documents, padding = packed_documents(prepared)
    taken = collections.Counter(documents)
    assert set(taken) <= {record["text"] for record in records}
    for domain in report.domains:
        ours = [record["text"] for record in records if record["domain"] == domain.name]
        sizes = {text: len(text.encode()) + 1 for text in ours}
        assert domain.documents_read == len(ours)
        assert domain.tokens_read == sum(sizes.values())
        assert domain.documents_written == sum(taken[text] for text in ours)
        assert domain.tokens_written == sum(taken[text] * sizes[text] for text in ours)
        assert domain.documents_left_out == sum(taken[text] == 0 for text in ours)
        assert domain.tokens_left_out == sum(sizes[t] for t in ours if taken[t] == 0)
        assert domain.documents_repeated == sum(max(taken[t] - 1, 0) for t in ours)
    assert {domain.name: domain.empty_documents for domain in report.domains}["web"] == 2
    metadata = TokenShards(prepared).metadata
    assert report.num_padding == padding == metadata.num_padding < 512
    assert report.num_tokens == sum(len(d.encode()) + 1 for d in documents) == metadata.num_tokens
    assert report.num_tokens + padding == 512 * metadata.num_sequences
    assert metadata.largest_id == EOS == metadata.separator_id
    assert sum(each.tokens_written for each in report.lengths) == report.num_tokens


def test_domains_keep_their_shares_and_long_documents_gain(prepared: Path) -> None:
    report = read_report(str(prepared))
    read = sum(domain.tokens_read for domain in report.domains)
    for domain in report.domains:
        before, after = domain.tokens_read / read, domain.tokens_written / report.num_tokens
        assert abs(after - before) < 0.01 * before
        long_before = domain.long_tokens_read / domain.tokens_read
        long_after = domain.long_tokens_written / domain.tokens_written
        assert long_after == pytest.approx(
            4 * long_before / (4 * long_before + 1 - long_before), abs=0.08
        )


def test_boundaries_are_at_every_document_and_every_sequence_start(prepared: Path) -> None:
    cuts = several = 0
    whole = True
    for sequence in TokenShards(prepared):
        starts = np.cumsum([0, *sequence.document_lengths])
        real = 512 - sequence.num_padding
        ends = np.flatnonzero(sequence.input_ids_T[:real] == EOS) + 1
        assert set(starts) == {0, *ends.tolist(), real, 512}
        cuts += not whole
        several += len(sequence.document_lengths) == 1 and not whole
        whole = sequence.input_ids_T[real - 1] == EOS
    assert several > 0, "no document was longer than two sequences: the test has no teeth"
    assert read_report(str(prepared)).cuts == cuts


def test_only_shards_and_report_are_left(prepared: Path) -> None:
    names = set(shard_files(prepared))
    parts = {name for name in names if name.startswith("part-")}
    assert names - parts == {"token_shards.json", "report.json", "report.png"}
    assert len(parts) == len(TokenShards(prepared).metadata.part_bytes) > 2
    assert (prepared / "report.png").read_bytes().startswith(b"\x89PNG")
    TokenShards(prepared).check_tokenizer(byte_tokenizer())


@pytest.mark.parametrize("max_tasks", [1, 3])
def test_parallelism_changes_no_byte(
    prepared: Path, texts: Path, tokenizer_folder: str, tmp_path: Path, max_tasks: int
) -> None:
    prepare(texts, tmp_path, tokenizer_folder, replace(CONFIG, max_tasks=max_tasks))
    assert shard_files(tmp_path) == shard_files(prepared)


def test_documents_are_trained_on_or_held_out_and_another_seed_gives_other_sequences(
    prepared: Path, texts: Path, tokenizer_folder: str, tmp_path: Path
) -> None:
    """A tenth is held out, each document once, and nothing is in both."""
    prepare(texts, tmp_path, tokenizer_folder, replace(CONFIG, seed=8, held_out=0.1))
    held_out, _ = packed_documents(tmp_path / "held_out")
    every = {record["text"] for record in texts_of(0)}
    assert len(held_out) == len(set(held_out)) == len(every) // 10
    assert texts_in(tmp_path) <= every - set(held_out)
    report = read_report(str(tmp_path))
    assert sum(domain.documents_read for domain in report.domains) == len(every) - len(held_out)
    assert TokenShards(tmp_path).metadata.settings["held_out"] == 0.1
    assert "held_out" not in TokenShards(prepared).metadata.settings
    names = {name.partition("/")[2] for name in shard_files(tmp_path) if "/" in name}
    others = {name for name in names if not name.startswith("part-")}
    assert others == {"token_shards.json", "report.json", "report.png"}
    assert not np.array_equal(
        TokenShards(tmp_path)[0].input_ids_T, TokenShards(prepared)[0].input_ids_T
    )


def test_running_again_changes_nothing_and_other_settings_are_refused(
    prepared: Path, texts: Path, tokenizer_folder: str
) -> None:
    times = {path: path.stat().st_mtime_ns for path in prepared.iterdir()}
    prepare(texts, prepared, tokenizer_folder, replace(CONFIG, max_tasks=2))
    assert times == {path: path.stat().st_mtime_ns for path in prepared.iterdir()}
    with pytest.raises(TokenShardError, match="made with another seed, upsample_factor;"):
        prepare(texts, prepared, tokenizer_folder, replace(CONFIG, seed=1, upsample_factor=1))


def test_without_up_sampling_every_document_is_packed_once(
    ray_cluster: str, texts: Path, tokenizer_folder: str, tmp_path: Path
) -> None:
    prepare(texts, tmp_path, tokenizer_folder, replace(CONFIG, upsample_factor=1))
    assert sorted(packed_documents(tmp_path)[0]) == sorted(each["text"] for each in texts_of(0))


def test_documents_kept_whole(ray_cluster: str, tokenizer_folder: str, tmp_path: Path) -> None:
    records = [each for each in texts_of(0) if len(each["text"].encode()) < 512]
    path = write_jsonl(tmp_path / "a.jsonl", records)
    config = replace(CONFIG, upsample_factor=1, keep_whole=True)
    report = prepare(path, tmp_path / "out", tokenizer_folder, config)
    assert report.cuts == 0
    for sequence in TokenShards(tmp_path / "out"):
        ends = np.cumsum(sequence.document_lengths)
        real = [end for end in ends if end <= 512 - sequence.num_padding]
        assert (sequence.input_ids_T[np.array(real) - 1] == EOS).all()
    assert sorted(packed_documents(tmp_path / "out")[0]) == sorted(each["text"] for each in records)


def test_only_the_named_characters_are_labels(
    ray_cluster: str, tokenizer_folder: str, tmp_path: Path
) -> None:
    text = "Question: 17? Answer: 17."
    record = {"text": text, "domain": "d", "labels": [[22, 25]]}
    path = write_jsonl(tmp_path / "a.jsonl", [record, {**record, "labels": []}])
    prepare(path, tmp_path / "out", tokenizer_folder, replace(CONFIG, labels_field="labels"))
    row = TokenShards(tmp_path / "out")[0]
    first, second = (slice(0, 26), slice(26, 52))
    assert bytes(row.input_ids_T[first][:-1].tolist()).decode() == text
    trained = [
        bytes(row.input_ids_T[span][row.is_label_T[span]][:-1].tolist()) for span in (first, second)
    ]
    assert sorted(trained) == [b"", b"17."]
    assert not row.is_label_T[52:].any()

    path = write_jsonl(tmp_path / "b.jsonl", [{**record, "labels": [[22, 26]]}])
    with pytest.raises(TextError, match="line 1: field 'labels' must hold pairs"):
        prepare(path, tmp_path / "bad", tokenizer_folder, replace(CONFIG, labels_field="labels"))


@pytest.mark.parametrize("parse", [False, True])
def test_control_tokens_in_a_text(
    ray_cluster: str, tokenizer_folder: str, tmp_path: Path, parse: bool
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "<|im_start|>user", "domain": "d"}])
    config = replace(CONFIG, parse_special_tokens=parse)
    prepare(path, tmp_path / "out", tokenizer_folder, config)
    ids_T = TokenShards(tmp_path / "out")[0].input_ids_T
    assert (TURN_START in ids_T) == parse


def test_a_broken_file_stops_the_run_or_is_counted(
    ray_cluster: str,
    texts: Path,
    tokenizer_folder: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    lines = (texts / "a.jsonl").read_bytes().split(b"\n")
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*lines[:10], b'{"text": "cu', *lines[10:]]))
    whole = (texts / "b.jsonl.zst").read_bytes()
    (tmp_path / "b.jsonl.zst").write_bytes(whole[:-20])
    out = tmp_path / "out"
    with pytest.raises(TextError, match=r"a\.jsonl, line 11: no JSON .*--text.on-error skip"):
        prepare(tmp_path / "a.jsonl", out, tokenizer_folder)
    printed = "".join(capfd.readouterr())
    assert not re.search("Traceback|line 11|issue on the Ray", printed), printed
    config = replace(CONFIG, on_error="skip", upsample_factor=1)
    prepare_text(
        [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl.zst")],
        output=str(out),
        checkpoint=tokenizer_folder,
        config=config,
    )
    report = read_report(str(out))
    assert report.unreadable_records == 2
    assert "a.jsonl, line 11: " in report.unreadable[0]
    assert "b.jsonl.zst, after line " in report.unreadable[1]
    assert sum(domain.documents_read for domain in report.domains) >= 150


def test_what_cannot_be_met(
    ray_cluster: str, texts: Path, tokenizer_folder: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="do not fit into a sequence of 512"):
        prepare(texts, tmp_path / "a", tokenizer_folder, replace(CONFIG, keep_whole=True))
    with pytest.raises(ValueError, match="needs 1000 CPUs"):
        prepare(texts, tmp_path / "b", tokenizer_folder, replace(CONFIG, task_cpus=1000))
    with pytest.raises(ValueError, match="'bos' is no token of this tokenizer"):
        prepare(texts, tmp_path / "c", tokenizer_folder, replace(CONFIG, separator="bos"))
    with pytest.raises(ValueError, match="cannot load a tokenizer"):
        prepare(texts, tmp_path / "d", str(texts), CONFIG)
    empty = write_jsonl(tmp_path / "empty.jsonl", [], blank=3)
    with pytest.raises(ValueError, match="no document is left"):
        prepare(empty, tmp_path / "e", tokenizer_folder)
