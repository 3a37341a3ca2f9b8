"""Shards on disk: bits survive, nothing is copied, damage and strangers are noticed, writers do not
collide."""

import dataclasses
import multiprocessing
import os
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from encoded_video import SPEC, VIDEO_ID, write_video
from hypothesis import given, settings
from hypothesis import strategies as st

from longva_ray.files.parts import part_name
from longva_ray.shards.schema import ShardError, VideoRecord, tensor_to_stored
from longva_ray.shards.store import ShardStore


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_dtype_survives_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    spec = dataclasses.replace(SPEC, dtype=dtype)
    store = ShardStore(tmp_path)
    written = write_video(store, spec)
    video = store.open(VIDEO_ID, spec)
    assert torch.equal(video.tokens(), written)
    assert video.frame_index_F.tolist() == [10 * row for row in range(12)]
    assert video.timestamp_s_F.tolist() == [float(row) for row in range(12)]
    video.verify()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_ranges_and_selections_equal_slices(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    num_frames = data.draw(st.integers(1, 23))
    store = ShardStore(tmp_path_factory.mktemp("store"))
    written = write_video(store, num_frames=num_frames)
    video = store.open(VIDEO_ID, SPEC)
    start = data.draw(st.integers(0, num_frames))
    stop = data.draw(st.integers(start, num_frames))
    parts = list(video.parts(start, stop))
    assert torch.equal(torch.cat([written[:0], *parts]), written[start:stop])
    rows = data.draw(st.lists(st.integers(0, num_frames - 1), max_size=9))
    assert torch.equal(video.tokens(rows), written[rows])


def test_a_part_is_a_view_on_the_mapped_file(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    write_video(store)
    video = store.open(VIDEO_ID, SPEC)
    before = pa.total_allocated_bytes()
    view = next(video.parts(2, 4))
    address = view.data_ptr()
    mapped = [
        [int(edge, 16) for edge in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(part_name(0))
    ]
    assert any(low <= address < high for low, high in mapped)
    assert pa.total_allocated_bytes() == before


def test_rows_outside_the_video_are_an_error(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    write_video(store)
    video = store.open(VIDEO_ID, SPEC)
    with pytest.raises(ValueError, match=r"row 12 .* has 12 frames"):
        video.tokens([3, 12])
    with pytest.raises(ValueError, match=r"rows 3\.\.13 .* has 12 frames"):
        list(video.parts(3, 13))


def test_tokens_of_another_encoder_are_refused_with_both_fingerprints(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    write_video(store)
    with pytest.raises(ShardError, match=f"fingerprint {'a' * 32} instead of {'b' * 32}"):
        store.open(VIDEO_ID, dataclasses.replace(SPEC, encoder_fingerprint="b" * 32))


def test_an_unknown_video_is_a_key_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="not in the shard store"):
        ShardStore(tmp_path).open(VIDEO_ID, SPEC)


def test_every_encoding_of_a_video_is_found_by_its_spec(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    write_video(store)
    other = dataclasses.replace(SPEC, sampling="uniform:7", micro_batch=2)
    write_video(store, other, num_frames=7)
    assert store.open(VIDEO_ID, SPEC).num_frames == 12
    assert store.open(VIDEO_ID, other).num_frames == 7
    told = "micro_batch 4 instead of 8; or sampling uniform:7 .*, micro_batch 2 instead of 8"
    with pytest.raises(ShardError, match=told):
        store.open(VIDEO_ID, dataclasses.replace(SPEC, micro_batch=8))


@pytest.mark.parametrize("kept", [0, 1, 100, -8])
def test_a_file_that_was_cut_short_is_detected(tmp_path: Path, kept: int) -> None:
    store = ShardStore(tmp_path)
    write_video(store)
    part = tmp_path / VIDEO_ID / SPEC.key / part_name(1)
    part.write_bytes(part.read_bytes()[:kept])
    video = store.open(VIDEO_ID, SPEC)
    with pytest.raises(ShardError, match=r"part-00001\.arrow has .* bytes instead of"):
        video.tokens()
    assert store.missing_parts(VIDEO_ID, SPEC, 12) == [1]


def test_changed_bits_are_found_by_verify(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    written = write_video(store)
    part = tmp_path / VIDEO_ID / SPEC.key / part_name(2)
    content = part.read_bytes()
    payload = written[10:12].numpy().tobytes()
    place = content.index(payload)
    part.write_bytes(content[: place + 3] + b"\x55" + content[place + 4 :])
    other = tmp_path / VIDEO_ID / SPEC.key / part_name(0)
    whole = other.read_bytes()
    other.write_bytes(whole[:-6] + b"ARROW?")
    video = store.open(VIDEO_ID, SPEC)
    with pytest.raises(ShardError, match=r"part-00000\.arrow cannot be read"):
        video.verify()
    video = store.open(VIDEO_ID, SPEC)
    other.write_bytes(whole)
    with pytest.raises(ShardError, match=r"part-00002\.arrow .* digest"):
        video.verify()


def test_commit_refuses_gaps(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    write_video(store, num_frames=5)
    with pytest.raises(ShardError, match=r"1 of 2 parts are missing.*part-00001\.arrow"):
        store.commit(VIDEO_ID, SPEC, source="a.mp4", num_frames=6, duration_s=1.0)


def test_tokens_of_another_shape_or_dtype_are_refused(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    with pytest.raises(ShardError, match=r"\(1, 4, 5\).*\(1, 4, 6\)"):
        store.write_part(VIDEO_ID, SPEC, 0, np.zeros(1), np.zeros(1), np.zeros((1, 4, 5), "f4"))
    with pytest.raises(ShardError, match=r"float16.*float32"):
        store.write_part(VIDEO_ID, SPEC, 0, np.zeros(1), np.zeros(1), np.zeros((1, 4, 6), "f2"))


def test_abandoned_files_are_removed_once_old(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    write_video(store)
    incoming = tmp_path / ".incoming"
    assert list(incoming.iterdir()) == []
    (incoming / "left-behind").write_bytes(b"half a part")
    assert store.remove_abandoned() == 0
    os.utime(incoming / "left-behind", (0, 0))
    assert store.remove_abandoned(timedelta(hours=1)) == 1
    assert list(incoming.iterdir()) == []


def test_a_record_of_another_version_is_as_good_as_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ShardStore(tmp_path)
    write_video(store)
    path = tmp_path / VIDEO_ID / SPEC.key / "video.json"
    path.write_text(path.read_text().replace('"micro_batch"', '"batch"'))
    assert store.records() == []
    assert store.record(VIDEO_ID, SPEC) is None
    assert "unknown option(s) ['batch']" in caplog.text
    (error,) = store.verify()
    assert f"{path} is not a video record of this version" in str(error)


def _write_again_and_again(root: str, times: int) -> None:
    for _ in range(times):
        write_video(ShardStore(root))


def test_writers_of_one_video_do_not_disturb_each_other_or_a_reader(tmp_path: Path) -> None:
    written = write_video(ShardStore(tmp_path))
    spawn = multiprocessing.get_context("spawn")
    writers = [
        spawn.Process(target=_write_again_and_again, args=(str(tmp_path), 50)) for _ in range(2)
    ]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers) or reads == 0:
        video = ShardStore(tmp_path).open(VIDEO_ID, SPEC)
        assert torch.equal(video.tokens(), written)
        reads += 1
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0


def test_any_fsspec_file_system_works() -> None:
    store = ShardStore("memory://shards-of-a-test")
    written = write_video(store)
    video = ShardStore("memory://shards-of-a-test").open(VIDEO_ID, SPEC)
    assert torch.equal(video.tokens(), written)
    assert [record.video_id for record in store.records()] == [VIDEO_ID]


def test_s3_works(s3_bucket: str) -> None:
    store = ShardStore(s3_bucket)
    assert store.missing_parts(VIDEO_ID, SPEC, 12) == [0, 1, 2]
    written = write_video(store)
    assert store.missing_parts(VIDEO_ID, SPEC, 12) == []
    video = store.open(VIDEO_ID, SPEC)
    assert torch.equal(video.tokens(), written)


def test_what_is_missing_on_s3_is_told_by_the_listing_alone(s3_bucket: str) -> None:
    store = ShardStore(s3_bucket)
    write_video(store)
    folder = f"{store.root}/{VIDEO_ID}/{SPEC.key}"
    record = store.record(VIDEO_ID, SPEC)
    assert record is not None

    def fill(part: int, size: int) -> None:
        with store.folder.filesystem.open_output_stream(f"{folder}/{part_name(part)}") as file:
            file.write(bytes(size))

    fill(1, record.part_bytes[1])  # whoever read it would call it damaged
    assert store.missing_parts(VIDEO_ID, SPEC, 12) == []
    fill(2, record.part_bytes[2] + 1)
    assert store.missing_parts(VIDEO_ID, SPEC, 12) == [2]
    store.folder.filesystem.delete_file(f"{folder}/{part_name(0)}")
    assert store.missing_parts(VIDEO_ID, SPEC, 12) == [0, 2]
    store.folder.filesystem.delete_file(f"{folder}/video.json")
    assert store.missing_parts(VIDEO_ID, SPEC, 12) == [0]


def test_a_whole_part_of_another_size_than_recorded_is_missing(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    written = write_video(store)
    rows = np.arange(5)
    other = ShardStore(tmp_path / "other")
    renamed = dataclasses.replace(SPEC, encoder_fingerprint="a longer name")
    other.write_part(VIDEO_ID, renamed, 0, rows, rows / 10, tensor_to_stored(written[:5]))
    part = tmp_path / VIDEO_ID / SPEC.key / part_name(0)
    (tmp_path / "other" / VIDEO_ID / renamed.key / part_name(0)).replace(part)
    assert store.missing_parts(VIDEO_ID, SPEC, 12) == [0]
    (part.parent / "video.json").unlink()
    assert store.missing_parts(VIDEO_ID, SPEC, 12) == []


def test_a_record_of_another_number_of_frames_speaks_for_no_part(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    write_video(store)
    assert store.missing_parts(VIDEO_ID, SPEC, 11) == [0, 1, 2]
    assert store.missing_parts(VIDEO_ID, SPEC, 16) == [0, 1, 2, 3]


def test_record_survives_json() -> None:
    record = VideoRecord(
        video_id=VIDEO_ID,
        spec=SPEC,
        source="a.mp4",
        num_frames=3,
        duration_s=0.3,
        part_bytes=(7, 8),
    )
    assert VideoRecord.from_json(record.to_json()) == record


def test_shards_keep_their_names_and_their_rule_whatever_is_added(tmp_path: Path) -> None:
    """The name of an encoding made when "1fps" was the only rate, which counts frames."""
    by_count = dataclasses.replace(SPEC, sampling="1fps-by-count")
    assert by_count.key == "1fps-1ba56f8bc48c"
    assert by_count.stored()["sampling"] == "1fps"
    assert SPEC.key.startswith("1fps-by-time-")
    assert dataclasses.replace(by_count, resize="pillow").key != by_count.key
    store = ShardStore(tmp_path)
    write_video(store, by_count)
    assert [record.spec for record in store.records()] == [by_count]
    with pytest.raises(ShardError, match="sampling 1fps-by-count instead of 1fps;"):
        store.open(VIDEO_ID, SPEC)


@pytest.mark.parametrize("field", ["encoder_fingerprint", "fitting", "micro_batch", "width"])
def test_everything_that_changes_tokens_changes_the_key(field: str) -> None:
    changed: object = {"micro_batch": 5, "width": 7}.get(field, "squash")
    assert dataclasses.replace(SPEC, **{field: changed}).key != SPEC.key
