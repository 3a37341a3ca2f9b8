"""Ray Data end to end on real files: right tokens in right places, one bad video stops nobody,
killed runs resume."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from counting_video import write_counting_video
from repository import PATIENCE_S, REPOSITORY

from longva_ray.lm.load import load_frame_encoder
from longva_ray.recipes import get_recipe
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.shards.pipeline import EncodeReport, _Collector, encode_videos, plan_workers
from longva_ray.shards.schema import EncodingSpec
from longva_ray.shards.store import ShardStore
from longva_ray.shards.workers import (
    Batch,
    DecodeSegment,
    EncodeFrames,
    IdentifyVideo,
    WritePart,
    describe_encoder,
    encode_one_video,
)
from longva_ray.video.container import VideoError
from longva_ray.video.decode import decode_frames

CONFIG = EncodeConfig(
    dtype="float32", micro_batch=4, part_frames=8, encoder_cpus=0.5, encoder_gpus=0, decode_cpus=0.5
)


def encode(
    paths: list[Path], root: Path, checkpoint: str, config: EncodeConfig = CONFIG
) -> EncodeReport:
    return encode_videos(
        [str(path) for path in paths],
        store=ShardStore(root),
        checkpoint=checkpoint,
        config=config,
    )


def files_of(root: Path) -> dict[str, bytes]:
    """Content of every file that readers see, by its place in the store."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".incoming" not in path.parts
    }


@pytest.fixture(scope="module")
def encoded(
    ray_cluster: str,
    counting_video: Path,
    tiny_checkpoint: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, EncodeReport]:
    """A store that the cluster has written, to be looked at or copied, and the report of that."""
    root = tmp_path_factory.mktemp("encoded")
    return root, encode([counting_video], root, tiny_checkpoint)


@pytest.fixture
def store_copy(encoded: tuple[Path, EncodeReport], tmp_path: Path) -> Path:
    return Path(shutil.copytree(encoded[0], tmp_path / "store"))


@pytest.fixture(scope="module")
def encode_frames(tiny_checkpoint: str) -> EncodeFrames:
    """The encoder in this process."""
    return EncodeFrames(tiny_checkpoint, CONFIG)


def test_tokens_order_and_times_equal_a_plain_loop(
    encoded: tuple[Path, EncodeReport], counting_video: Path, tiny_checkpoint: str
) -> None:
    root, report = encoded
    assert not report.failed
    assert report.frames_encoded == 30
    video = ShardStore(root).open(report.videos[0].video_id, report.spec)
    assert video.frame_index_F.tolist() == list(range(0, 300, 10))
    np.testing.assert_allclose(video.timestamp_s_F, np.arange(30.0), atol=1e-6)
    encoder = load_frame_encoder(tiny_checkpoint, dtype=torch.float32)
    every_frame = decode_frames(
        counting_video, np.arange(300), size=56, fitting="letterbox", chunk_frames=300
    )
    frames_FYXC = next(iter(every_frame)).frames_FYXC
    for row, frame in enumerate(range(0, 300, 10)):
        expected_1QD = encoder.encode(frames_FYXC[frame][None], micro_batch=1)
        torch.testing.assert_close(
            video.tokens([row]), expected_1QD, atol=1e-5, rtol=1e-4, msg=f"frame {frame}"
        )


def test_encoding_twice_does_nothing_the_second_time(
    store_copy: Path, counting_video: Path, tiny_checkpoint: str, tmp_path: Path
) -> None:
    times = {path: path.stat().st_mtime_ns for path in store_copy.rglob("part-*")}
    copy = tmp_path / "same content, other name.mp4"
    copy.write_bytes(counting_video.read_bytes())
    report = encode([counting_video, copy, counting_video], store_copy, tiny_checkpoint)
    assert report.frames_encoded == 0
    assert len(report.videos) == 2
    assert len({video.video_id for video in report.videos}) == 1
    assert {path: path.stat().st_mtime_ns for path in store_copy.rglob("part-*")} == times


def test_only_missing_parts_are_encoded_again(
    store_copy: Path, counting_video: Path, tiny_checkpoint: str
) -> None:
    before = files_of(store_copy)
    damaged = sorted(store_copy.rglob("part-*"))
    damaged[1].write_bytes(damaged[1].read_bytes()[:500])
    damaged[3].unlink()
    report = encode([counting_video], store_copy, tiny_checkpoint)
    assert report.frames_encoded == 8 + 6
    assert files_of(store_copy) == before


def test_bad_videos_are_reported_and_the_others_finish(
    ray_cluster: str, counting_video: Path, tiny_checkpoint: str, tmp_path: Path
) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("not a video at all\n" * 100)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(counting_video.read_bytes()[:-2000])
    missing = tmp_path / "missing.mp4"
    report = encode([text, counting_video, cut, missing], tmp_path / "store", tiny_checkpoint)
    by_name = {Path(video.path).name: video for video in report.videos}
    assert by_name["counting.mp4"].error == ""
    assert {Path(video.path).name for video in report.failed} == {
        "text.mp4",
        "cut.mp4",
        "missing.mp4",
    }
    records = ShardStore(tmp_path / "store").records()
    assert [record.source for record in records] == ["counting.mp4"]


@pytest.mark.parametrize("sampling", ["uniform:13", "every", "2fps"])
def test_other_samplings(
    encode_frames: EncodeFrames, tiny_checkpoint: str, tmp_path: Path, sampling: str
) -> None:
    path = tmp_path / "short.mp4"
    write_counting_video(path, num_frames=40, fps=10)
    spec = describe_encoder(tiny_checkpoint, dataclasses.replace(CONFIG, sampling=sampling))
    store = ShardStore(tmp_path / "store")
    record = encode_one_video(str(path), store, spec, encode_frames)
    expected = {
        "uniform:13": np.linspace(0, 39, 13, dtype=int),
        "every": np.arange(40),
        "2fps": np.arange(0, 40, 5),
    }
    video = store.open(record.video_id, spec)
    assert video.frame_index_F.tolist() == expected[sampling].tolist()


def test_one_process_writes_what_the_cluster_does(
    encoded: tuple[Path, EncodeReport],
    encode_frames: EncodeFrames,
    counting_video: Path,
    tmp_path: Path,
) -> None:
    root, report = encoded
    alone = ShardStore(tmp_path / "alone")
    encode_one_video(str(counting_video), alone, report.spec, encode_frames)
    # The same micro-batches give the same bits only under the same number of threads, which Ray
    # sets for its workers.
    assert files_of(tmp_path / "alone").keys() == files_of(root).keys()
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(VideoError, match=r"text\.mp4"):
        encode_one_video(str(text), alone, report.spec, encode_frames)


def test_a_killed_job_resumes_to_the_same_bytes(
    ray_cluster: str, tiny_checkpoint: str, tmp_path: Path
) -> None:
    path = tmp_path / "long.mp4"
    write_counting_video(path, num_frames=800, fps=10)
    changes = {"part_frames": 4, "sampling": "5fps"}
    config = dataclasses.replace(get_recipe("tiny").encode, **changes)
    assert not encode([path], tmp_path / "undisturbed", tiny_checkpoint, config).failed
    command = [sys.executable, str(REPOSITORY / "jobs/encode_videos.py"), "--videos", str(path)]
    command += ["--model", tiny_checkpoint, "--encode.part-frames", "4"]
    command += ["--encode.sampling", "5fps"]
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}

    def run(store: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, "--store", str(store)], env=environment)

    killed = run(tmp_path / "killed")
    parts: list[Path] = []
    while len(parts) < 10 and killed.poll() is None:
        parts = list((tmp_path / "killed").rglob("part-*.arrow"))
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not list((tmp_path / "killed").rglob("video.json")), "killed too late to show anything"
    assert run(tmp_path / "killed").wait(timeout=PATIENCE_S) == 0
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "undisturbed")
    assert len(files_of(tmp_path / "killed")) == 400 // 4 + 1


def test_a_graph_waits_and_keeps_its_settings_to_itself(
    ray_cluster: str,
    counting_video: Path,
    tiny_checkpoint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = ray.data.DataContext.get_current()
    monkeypatch.setattr(context, "execution_no_progress_timeout_s", 0.01)
    before = context.copy()
    assert not encode([counting_video], tmp_path, tiny_checkpoint).failed
    assert ray.data.DataContext.get_current() == before


def rows_of(path: Path, store: ShardStore, spec: EncodingSpec, checkpoint: str) -> list[Batch]:
    """What the graph reports of a video that it encodes."""
    encode_frames, write = EncodeFrames(checkpoint, CONFIG), WritePart(store, spec)
    plan = IdentifyVideo(store, spec, decode_slots=1)({"path": [str(path)]})
    return [
        {name: values[0] for name, values in write(encode_frames(part)).items()}
        for part in DecodeSegment(spec)(plan)
    ]


def test_parts_on_a_disk_that_the_driver_does_not_see_are_the_error_of_their_video(
    counting_video: Path, tiny_checkpoint: str, tmp_path: Path
) -> None:
    spec = describe_encoder(tiny_checkpoint, CONFIG)
    rows = rows_of(counting_video, ShardStore(tmp_path / "there"), spec, tiny_checkpoint)
    collector = _Collector(ShardStore(tmp_path / "here"), spec)
    for row in rows:
        collector.add(row)
    collector.check_complete()
    error = collector.videos[str(counting_video)].error
    assert "4 of 4 parts are missing" in error
    assert "give a URI or a folder that all nodes share" in error


def test_a_video_whose_rows_got_lost_is_no_success(
    counting_video: Path, tiny_checkpoint: str, tmp_path: Path
) -> None:
    spec, store = describe_encoder(tiny_checkpoint, CONFIG), ShardStore(tmp_path)
    collector = _Collector(store, spec)
    *first, last = rows_of(counting_video, store, spec, tiny_checkpoint)
    for row in first:
        collector.add(row)
    with pytest.raises(AssertionError, match=r"counting\.mp4"):
        collector.check_complete()
    collector.add(last)
    collector.check_complete()
    assert store.record(last["video_id"], spec) is not None


def test_nothing_to_encode_is_an_error(ray_cluster: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no videos"):
        encode([], tmp_path, "unused")


@pytest.mark.parametrize(
    ("cpus", "gpus", "encoders", "slots"),
    [(2, 0, 1, 1), (8, 0, 1, 7), (16, 4, 4, 13), (6, 8, 5, 1), (0, 0, 1, 1)],
)
def test_workers_fit_the_cluster(cpus: float, gpus: float, encoders: int, slots: int) -> None:
    config = EncodeConfig(encoder_gpus=1 if gpus else 0)
    plan = plan_workers(config, cpus, gpus)
    assert (plan.max_encoders, plan.decode_slots) == (encoders, slots)
    held = plan.max_encoders * config.encoder_cpus + plan.decode_slots * config.decode_cpus
    assert cpus == 0 or held < cpus


def test_a_cluster_that_is_too_small_is_an_error_with_the_sum() -> None:
    with pytest.raises(ValueError, match=r"= 2 CPUs, but the cluster has 1"):
        plan_workers(EncodeConfig(encoder_gpus=0), 1, 0)


def test_missing_gpus_are_an_error_unless_an_autoscaler_was_told_how_far_to_grow() -> None:
    with pytest.raises(ValueError, match=r"--encode\.encoder-gpus 0"):
        plan_workers(EncodeConfig(), 8, 0)
    assert plan_workers(EncodeConfig(max_encoders=3), 8, 0).max_encoders == 3
