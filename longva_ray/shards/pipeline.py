"""Videos -> embedding shards, in parallel and resumable: the Ray Data graph.

    manifest -> identify -> decode -> encode -> write -> report
    (driver)    (tasks)     (tasks,   (actors,  (tasks)  (driver: counts, progress, commits)
                             stream)   GPUs)

Decoding streams one part at a time and pixels are dropped as soon as they are encoded, so memory
follows the number of workers and never the length of a video. Finished parts stay: killed runs go
on where they stopped, and running twice does nothing the second time. Ray's own retries cover lost
workers and nodes; a bad video becomes an error in the report."""

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from longva_ray.cluster.graph import graph_of
from longva_ray.cluster.job import connect
from longva_ray.progress import Progress
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.shards.schema import EncodingSpec, ShardError
from longva_ray.shards.store import ShardStore
from longva_ray.shards.workers import (
    Batch,
    DecodeSegment,
    EncodeOrReport,
    IdentifyVideo,
    WritePart,
    commit_video,
    describe_encoder,
)

logger = logging.getLogger(__name__)

LIGHT_CPUS = 0.1
"""CPUs reserved for a writer, which mostly waits for a disk; above zero, so that it never runs on a
head node without CPUs."""

WORKER_MEMORY = 512 * 2**20
"""Bytes that Ray reserves for a worker's process: Python with a video decoder."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VideoResult:
    """What became of one input file."""

    path: str
    video_id: str
    num_frames: int
    frames_encoded: int
    """Frames that this run had to encode; 0 when the store already held them all."""
    error: str
    """Why the video could not be encoded; empty when it was."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EncodeReport:
    """Outcome of a run: one result for each input, and where the time went, summed over the
    workers."""

    videos: tuple[VideoResult, ...]
    spec: EncodingSpec
    wall_s: float
    decode_s: float
    encode_s: float
    write_s: float

    @property
    def failed(self) -> tuple[VideoResult, ...]:
        return tuple(video for video in self.videos if video.error)

    @property
    def frames_encoded(self) -> int:
        return sum(video.frames_encoded for video in self.videos)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WorkerPlan:
    """How many workers the graph may use."""

    max_encoders: int
    decode_slots: int
    """Decoding tasks that fit next to the encoders; a single video is split among that many."""


def plan_workers(config: EncodeConfig, cpus: float, gpus: float) -> WorkerPlan:
    """Fit the graph into the CPUs and GPUs of a cluster so that it cannot wait for itself.

    Encoder actors hold their CPUs for the whole run; if they held all of them, no decoding task
    could ever start and Ray Data would hang without a word. A cluster that shows no CPUs yet (a
    head node before its workers come up) is planned as if it had one node: the autoscaler brings
    what the pending tasks ask for.

    Raises ValueError, with the sum, when one encoder and one decoder do not fit together.
    """
    encoders = config.max_encoders or (
        max(1, int(gpus / config.encoder_gpus)) if config.encoder_gpus else 1
    )
    if cpus == 0:
        return WorkerPlan(max_encoders=encoders, decode_slots=1)
    if gpus < config.encoder_gpus and config.max_encoders is None:
        raise ValueError(
            f"an encoder needs {config.encoder_gpus:g} GPU(s), but the cluster has {gpus:g}; set "
            "--encode.encoder-gpus 0 to encode on CPUs, or --encode.max-encoders if an autoscaler "
            "will bring GPUs"
        )
    needed = config.encoder_cpus + config.decode_cpus + LIGHT_CPUS
    if needed > cpus + 1e-9:
        raise ValueError(
            f"encoding needs {config.encoder_cpus} (encoder) + {config.decode_cpus} (decoder) + "
            f"{LIGHT_CPUS} (writer) = {needed:g} CPUs, but the cluster has {cpus:g}; lower "
            "--encode.encoder-cpus or --encode.decode-cpus, fractions are allowed"
        )
    free = cpus - config.decode_cpus - LIGHT_CPUS
    encoders = max(1, min(encoders, int(free / config.encoder_cpus)))
    slots = int((cpus - encoders * config.encoder_cpus - LIGHT_CPUS) / config.decode_cpus + 1e-9)
    return WorkerPlan(max_encoders=encoders, decode_slots=max(1, slots))


def describe_on_worker(checkpoint: str, config: EncodeConfig) -> EncodingSpec:
    """`describe_encoder`, on a worker: a head node need not have the memory for the weights."""
    connect()
    describe = ray.remote(num_cpus=config.encoder_cpus)(describe_encoder)
    spec: EncodingSpec = ray.get(describe.remote(checkpoint, config))
    return spec


def encode_videos(
    paths: Sequence[str], *, store: ShardStore, checkpoint: str, config: EncodeConfig
) -> EncodeReport:
    """Encode videos into the store and return what became of each.

    Args:
        paths: video files that every node can open; the same file may stand there twice.
        store: where the shards go.
        checkpoint: weights of the vision tower and the projector; every node must be able to load
            them.

    Raises ValueError when there is nothing to encode or the cluster is too small.
    """
    if not paths:
        raise ValueError("no videos were given; name at least one file")
    connect()
    resources = ray.cluster_resources()
    plan = plan_workers(config, resources.get("CPU", 0.0), resources.get("GPU", 0.0))
    spec = describe_on_worker(checkpoint, config)
    store.remove_abandoned()
    logger.info("encoding %d videos with %s", len(paths), plan)
    started = time.perf_counter()
    graph = _build_graph(sorted(set(paths)), store, checkpoint, config, spec, plan)
    collector = _Collector(store, spec)
    with Progress("encoding", unit="frames") as progress:
        for row in graph.iter_rows():
            collector.add(row)
            progress.advance(row["frames_written"])
    collector.check_complete()
    return EncodeReport(
        videos=tuple(collector.videos[path] for path in dict.fromkeys(paths)),
        spec=spec,
        wall_s=time.perf_counter() - started,
        **collector.seconds,
    )


def _build_graph(
    paths: list[str],
    store: ShardStore,
    checkpoint: str,
    config: EncodeConfig,
    spec: EncodingSpec,
    plan: WorkerPlan,
) -> ray.data.Dataset:
    graph = graph_of([{"path": path} for path in paths])
    # One part a block: with larger blocks a decoder would hold many parts back before the encoder
    # sees the first.
    graph.context.target_max_block_size = 1
    one_row: dict[str, Any] = {"batch_size": 1, "batch_format": "numpy", "zero_copy_batch": True}
    identify = IdentifyVideo(store, spec, plan.decode_slots)
    return (
        graph.map_batches(identify, num_cpus=config.decode_cpus, memory=WORKER_MEMORY, **one_row)
        .map_batches(
            DecodeSegment(spec),
            num_cpus=config.decode_cpus,
            # A request that differs from the encoders' also keeps Ray from fusing this stage into
            # them, where frames would be decoded one after another.
            memory=_decode_memory(spec),
            **one_row,
        )
        .map_batches(
            EncodeOrReport,
            fn_constructor_kwargs={"checkpoint": checkpoint, "config": config},
            compute=ActorPoolStrategy(min_size=1, max_size=plan.max_encoders),
            num_cpus=config.encoder_cpus,
            num_gpus=config.encoder_gpus,
            **one_row,
        )
        .map_batches(
            WritePart(store, spec),
            # Without a bound, Ray would start a process for every tenth of a CPU.
            compute=TaskPoolStrategy(size=1 + plan.max_encoders),
            num_cpus=LIGHT_CPUS,
            memory=WORKER_MEMORY,
            **one_row,
        )
    )


def _decode_memory(spec: EncodingSpec) -> int:
    """Bytes that a decoding task may hold: its process, and two parts of pixels."""
    return WORKER_MEMORY + 2 * spec.part_frames * spec.frame_size**2 * 3


class _Collector:
    """Gathers finished parts into videos and commits each video with its last part."""

    def __init__(self, store: ShardStore, spec: EncodingSpec) -> None:
        self._store = store
        self._spec = spec
        self._parts_done: Counter[str] = Counter()
        self._recorded: set[str] = set()
        self.videos: dict[str, VideoResult] = {}
        self.seconds = {"decode_s": 0.0, "encode_s": 0.0, "write_s": 0.0}

    def add(self, row: Batch) -> None:
        path = row["path"]
        before = self.videos.get(path)
        error_before = before.error if before else ""
        error = row["error"]
        self._parts_done[path] += row["part"] >= 0
        if not (error or error_before) and self._parts_done[path] == row["parts_missing"]:
            error = self._commit(row)
        if error:
            logger.warning("cannot encode %s: %s", path, error)
        self.videos[path] = VideoResult(
            path=path,
            video_id=row["video_id"],
            num_frames=row["num_frames"],
            frames_encoded=row["frames_written"] + (before.frames_encoded if before else 0),
            error=error or error_before,
        )
        for stage in self.seconds:
            self.seconds[stage] += row[stage]

    def _commit(self, row: Batch) -> str:
        """What keeps the video from being recorded; empty when it is."""
        try:
            commit_video(self._store, self._spec, row)
        except ShardError as error:
            return (
                f"{error}; or the workers wrote to a disk that this machine does not see: give a "
                "URI or a folder that all nodes share as the store"
            )
        self._recorded.add(row["path"])
        return ""

    def check_complete(self) -> None:
        """A video without an error has a record, whatever became of its rows."""
        lost = [
            path for path, v in self.videos.items() if not v.error and path not in self._recorded
        ]
        assert not lost, f"videos without error and record: {lost}"
