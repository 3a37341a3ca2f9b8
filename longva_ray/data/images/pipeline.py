"""Images and conversations -> vision shards, in parallel and resumable, by Ray Data.

    files -> shuffled slices of samples -> encode and pack each -> part, left out -> manifest
             (driver)                      (tasks)                                   (driver)

One pass: a task takes a fixed slice of the shuffled samples, encodes them one after the other and
writes its rows, so that no image is decoded twice and a task holds one row of pixels at a time. The
slices follow from samples and seed alone; finished parts stay on disk, and a killed run goes on
where it stopped. A sample that cannot be used is named in report.json with its reason and leaves a
gap, nothing takes its place.

Trade-off: samples are packed in the order in which they come, so a row ends as soon as the next
sample does not fit. Rows are not padded, so this costs no arithmetic, only evenness between rings.
The driver holds the text of all conversations; pixels never pass through it. Images are taken as
they are when their part is written.
"""

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from longva_ray.cluster.tasks import run_tasks
from longva_ray.data.images.chat import RawSample, SampleError, parse_sample, read_samples
from longva_ray.data.images.samples import EncodedSample, SampleEncoder
from longva_ray.data.images.shards import (
    PartRecord,
    VisionRow,
    VisionShardError,
    VisionShardsMetadata,
    VisionShardWriter,
    has_manifest,
    read_manifest,
)
from longva_ray.files.folder import INCOMING, write_atomically
from longva_ray.files.places import open_place
from longva_ray.lm.base_models import load_tokenizer, tokenizer_fingerprint
from longva_ray.lm.load import load_longva_config
from longva_ray.lm.prompt import add_placeholders
from longva_ray.progress import Progress
from longva_ray.settings.base import from_dict
from longva_ray.settings.data import ImageDataConfig
from longva_ray.vision.encoding import GridSettings

logger = logging.getLogger(__name__)


REPORT_NAME = "report.json"


TASK_MEMORY = 2**30
"""Bytes that Ray reserves for a task: its process and a row of pixels, twice."""


_NO_SAY = ("on_error", "task_cpus", "max_tasks")
"""Settings that do not decide what is written."""


_VERSIONS = ("longva-ray", "numpy", "pillow", "pyarrow", "tokenizers", "transformers")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A sample that could not be used."""

    sample_id: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PartResult:
    """What became of the samples of a slice; beside the part, it says that the part is complete."""

    key: str
    record: PartRecord
    left_out: tuple[LeftOut, ...]


class EncodePart:
    """Worker: encodes a slice of samples and writes it as one part."""

    def __init__(
        self, output: str, key: str, encoder: SampleEncoder, writer: VisionShardWriter, row: int
    ) -> None:
        self._output = output
        self._key = key
        self._encoder = encoder
        self._writer = writer
        self._row_tokens = row

    def __call__(self, part: int, samples: Sequence[RawSample], stop: bool) -> PartResult:
        """Raises VisionShardError for the first sample that cannot be used, if told to `stop`."""
        left_out: list[LeftOut] = []
        encoded = self._encode(samples, left_out, stop)
        record = self._writer.write_part(part, pack_rows(encoded, self._row_tokens))
        result = PartResult(key=self._key, record=record, left_out=tuple(left_out))
        filesystem, root = open_place(self._output)
        content = json.dumps(dataclasses.asdict(result)).encode()
        write_atomically(filesystem, root, result_name(part), content)
        return result

    def _encode(
        self, samples: Sequence[RawSample], left_out: list[LeftOut], stop: bool
    ) -> Iterator[EncodedSample]:
        for raw in samples:
            try:
                encoded = self._encoder(parse_sample(raw))
            except SampleError as error:
                if stop:
                    raise VisionShardError(
                        f"sample {raw.sample_id}: {error}; --images.on-error skip leaves such "
                        "samples out"
                    ) from error
                left_out.append(LeftOut(sample_id=raw.sample_id, reason=str(error)))
            else:
                yield encoded


def pack_rows(samples: Iterator[EncodedSample], row_tokens: int) -> Iterator[VisionRow]:
    """Whole samples in order, as many in a row as fit into its budget."""
    row: list[EncodedSample] = []
    used = 0
    for sample in samples:
        length = len(sample.input_ids_T)
        if row and used + length > row_tokens:
            yield VisionRow.of(row)
            row, used = [], 0
        row.append(sample)
        used += length
    if row:
        yield VisionRow.of(row)


def prepare_images(
    places: Sequence[str], *, output: str, checkpoint: str, config: ImageDataConfig
) -> VisionShardsMetadata:
    """Turn LLaVA files into vision shards in `output`, a folder or URI that every node reaches.

    Beside the shards lies report.json. Shards that are already there, made from the same samples in
    the same way, are left as they are.

    Args:
        places: files and mixtures (`image_chat.read_samples`).
        checkpoint: LongVA folder whose tokenizer, grids and fitting are used.

    Raises ValueError for files that cannot be read, a folder that holds other shards, or if no
    sample can be used.
    """
    started = time.perf_counter()
    samples = read_samples(places, image_folder=config.image_folder, seed=config.seed)
    order = np.random.default_rng([config.seed, len(samples)]).permutation(len(samples))
    tokenizer = load_tokenizer(checkpoint)
    add_placeholders(tokenizer)
    grids = load_longva_config(checkpoint).grids
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in _NO_SAY}
    fingerprint = tokenizer_fingerprint(tokenizer)
    key = _key(samples, [settings, fingerprint, dataclasses.asdict(grids)])
    if has_manifest(output):
        return _existing(output, key)
    writer = VisionShardWriter(output, key=key)
    encoder = SampleEncoder(
        tokenizer, grids, sampling=config.sampling, max_tokens=config.row_tokens
    )
    worker = EncodePart(output, key, encoder, writer, config.row_tokens)
    slices = np.split(order, range(config.part_samples, len(order), config.part_samples))
    parts = [[samples[index] for index in each] for each in slices]
    results = _encode_parts(worker, parts, output, key, config)
    metadata = describe_parts(results, places, grids, fingerprint, key, settings)
    filesystem, root = open_place(output)
    report = json.dumps(report_of(results), indent=2) + "\n"
    write_atomically(filesystem, root, REPORT_NAME, report.encode())
    writer.commit(metadata)
    filesystem.delete_dir(f"{root}/{INCOMING}")
    logger.info(
        "prepared %d samples in %.1f s", metadata.num_samples, time.perf_counter() - started
    )
    return metadata


def _existing(output: str, key: str) -> VisionShardsMetadata:
    found = read_manifest(output)
    if found.key != key:
        raise VisionShardError(
            f"{output} holds vision shards of other samples, another model or other settings; "
            "choose another output folder, or delete this one"
        )
    logger.info("%s already holds these shards", output)
    return found


def _encode_parts(
    worker: EncodePart,
    parts: list[list[RawSample]],
    output: str,
    key: str,
    config: ImageDataConfig,
) -> list[PartResult]:
    results = {
        part: result
        for part in range(len(parts))
        if (result := read_result(output, part, key)) is not None
    }
    stop = config.on_error == "stop"
    tasks: list[tuple[Any, ...]] = [
        (part, samples, stop) for part, samples in enumerate(parts) if part not in results
    ]
    logger.info("%d parts, %d are written already", len(parts), len(results))
    with Progress("encoding", unit="samples", total=sum(map(len, parts))) as progress:
        progress.advance(sum(len(parts[part]) for part in results))
        for part, result in run_tasks(
            worker, tasks, cpus=config.task_cpus, memory=TASK_MEMORY, most=config.max_tasks
        ):
            results[part] = result
            progress.advance(len(parts[part]))
    return [results[part] for part in range(len(parts))]


def read_result(output: str, part: int, key: str) -> PartResult | None:
    """What an earlier run under the same key says of a part; None if it did not finish it."""
    filesystem, root = open_place(output)
    try:
        with filesystem.open_input_stream(f"{root}/{result_name(part)}") as file:
            values = json.loads(file.read())
    except FileNotFoundError:
        return None
    values["left_out"] = tuple(LeftOut(**each) for each in values["left_out"])
    result = from_dict(PartResult, values)
    return result if result.key == key else None


def report_of(results: Sequence[PartResult]) -> dict[str, Any]:
    """Where every sample went: written, or left out with its reason."""
    left_out = [each for result in results for each in result.left_out]
    records = [result.record for result in results]
    return {
        "samples": sum(record.num_samples for record in records) + len(left_out),
        "written": sum(record.num_samples for record in records),
        "rows": sum(len(record.row_tokens) for record in records),
        "tokens": sum(sum(record.row_tokens) for record in records),
        "trained_tokens": sum(record.num_trained for record in records),
        "grids": sum(sum(record.row_grids) for record in records),
        "left_out": [dataclasses.asdict(each) for each in left_out],
    }


def describe_parts(
    results: list[PartResult],
    places: Sequence[str],
    grids: GridSettings,
    fingerprint: str,
    key: str,
    settings: dict[str, Any],
) -> VisionShardsMetadata:
    records = [result.record for result in results]
    left_out = [each for result in results for each in result.left_out]
    if not any(record.row_tokens for record in records):
        raise VisionShardError(
            f"none of {len(left_out)} samples can be used; the first is {left_out[0].sample_id}: "
            f"{left_out[0].reason}"
        )
    return VisionShardsMetadata(
        row_tokens=tuple(length for record in records for length in record.row_tokens),
        row_grids=tuple(number for record in records for number in record.row_grids),
        num_samples=sum(record.num_samples for record in records),
        num_left_out=len(left_out),
        num_trained=sum(record.num_trained for record in records),
        grids=grids,
        tokenizer_fingerprint=fingerprint,
        source=tuple(places),
        key=key,
        content_key=_hash([record.digest for record in records]),
        settings=settings,
        versions={name: version(name) for name in _VERSIONS},
        part_rows=tuple(len(record.row_tokens) for record in records),
        part_bytes=tuple(record.num_bytes for record in records),
    )


def result_name(part: int) -> str:
    return f"part-{part:05d}.json"


def _key(samples: Sequence[RawSample], decides: Any) -> str:
    digest = hashlib.blake2b(json.dumps(decides).encode(), digest_size=16)
    for sample in samples:
        digest.update(json.dumps([sample.sample_id, sample.folder, sample.content]).encode())
    return digest.hexdigest()


def _hash(values: Any) -> str:
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()
