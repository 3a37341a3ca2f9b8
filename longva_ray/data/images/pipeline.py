"""Images and conversations -> vision shards, in parallel and resumable.

    files -> shuffled slices of samples -> encode and pack each -> part, left out -> manifest
             (driver)                      (tasks)                                   (driver)

One pass: a task takes a fixed slice of the shuffled samples, encodes them one after another and
writes its rows, so that no image is decoded twice and a task holds one row of pixels at a time. The
slices follow from samples and seed alone; finished parts stay on disk, and a killed run goes on
where it stopped. A sample that cannot be used is named in report.json with its reason. Nothing
takes its place.

Trade-off: samples are packed in the order in which they come, so a row ends as soon as the next
sample does not fit. Rows are not padded, so this costs no arithmetic, only evenness between rings.
The driver holds the text of all conversations; pixels never pass through it. Images are taken as
they are when their part is written.
"""

import dataclasses
import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from longva_ray.data.held_out import hold_out
from longva_ray.data.images.chat import RawSample, read_samples, shown
from longva_ray.data.images.encode import part_worker
from longva_ray.data.images.manifest import Provenance, manifest_of, video_settings
from longva_ray.data.images.report import image_numbers
from longva_ray.data.images.samples import SampleEncoder
from longva_ray.data.images.shards import (
    VISION_SHARDS,
    VisionPart,
    VisionShardsMetadata,
    VisionShardWriter,
)
from longva_ray.data.preparation import check_same, deciding_settings, encode_slices
from longva_ray.data.sample_parts import PartResult
from longva_ray.data.sample_report import write_report
from longva_ray.files.digest import digest_of
from longva_ray.files.folder import Folder
from longva_ray.files.parts import HELD_OUT, clean
from longva_ray.lm.base_models import load_tokenizer
from longva_ray.lm.fingerprints import tokenizer_fingerprint
from longva_ray.lm.layout import load_longva_config
from longva_ray.lm.prompt import add_placeholders
from longva_ray.settings.data import ImageDataConfig

logger = logging.getLogger(__name__)

_NOT_DECIDING = ("on_error", "task_cpus", "max_tasks")
"""Settings that do not decide what is written."""


def prepare_images(
    places: Sequence[str], *, output: str, checkpoint: str, config: ImageDataConfig
) -> VisionShardsMetadata:
    """Turn LLaVA files into vision shards in `output`, a folder or URI that every node reaches.

    Next to the shards lies report.json. Shards that are already there, made from the same samples
    in the same way, are left as they are.

    Args:
        places: files and mixtures (`chat.read_samples`).
        checkpoint: LongVA folder whose tokenizer, grids and fitting are used.

    Raises ValueError for files that cannot be read, a folder that holds other shards, or if no
    sample can be used.
    """
    started = time.perf_counter()
    samples = read_samples(places, image_folder=config.image_folder, seed=config.seed)
    tokenizer = load_tokenizer(checkpoint)
    add_placeholders(tokenizer)
    model = load_longva_config(checkpoint)
    origin = Provenance.of(
        samples,
        source=places,
        grids=model.grids,
        tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
        settings=deciding_settings(config, _NOT_DECIDING)
        | video_settings(config.sampling, model, samples),
    )
    folder = Folder(output)
    if VISION_SHARDS.is_complete(folder):
        return _existing(folder, origin)
    encoder = SampleEncoder(
        tokenizer,
        origin.grids,
        sampling=config.sampling,
        video_fitting=model.fitting_of_videos,
        max_tokens=config.row_tokens,
    )
    if config.held_out is not None:
        held_out, samples = hold_out(samples, shown, config.held_out, config.seed)
        apart = dataclasses.replace(origin, key=digest_of(origin.key, HELD_OUT))
        _write(held_out, folder.inside(HELD_OUT), encoder, apart, config)
    else:  # what an interrupted run with other settings may have left
        folder.delete(HELD_OUT)
    metadata = _write(samples, folder, encoder, origin, config)
    logger.info(
        "prepared %d samples in %.1f s", metadata.num_samples, time.perf_counter() - started
    )
    return metadata


def _write(
    samples: Sequence[RawSample],
    folder: Folder,
    encoder: SampleEncoder,
    origin: Provenance,
    config: ImageDataConfig,
) -> VisionShardsMetadata:
    """Write shards and report into a folder."""
    writer = VisionShardWriter(folder.place, key=origin.key)
    results = _encode_parts(folder, _slices(samples, config), encoder, writer, origin.key, config)
    metadata = manifest_of(results, origin)
    write_report(folder, image_numbers(results), results)
    writer.commit(metadata)
    clean(folder, len(results))
    return metadata


def _existing(output: Folder, origin: Provenance) -> VisionShardsMetadata:
    """The manifest of a run that had finished; ValueError if it is one of another run."""
    found = VISION_SHARDS.read_manifest(output)

    def known(of: VisionShardsMetadata | Provenance) -> dict[str, Any]:
        return {"tokenizer": of.tokenizer_fingerprint, "kind of grids": of.grids, **of.settings}

    check_same(VISION_SHARDS, output.place, known(found), known(origin))
    check_same(
        VISION_SHARDS, output.place, {"set of samples": found.key}, {"set of samples": origin.key}
    )
    logger.info("%s already holds these shards", output.place)
    return found


def _slices(samples: Sequence[RawSample], config: ImageDataConfig) -> list[list[RawSample]]:
    """The samples in shuffled order, as many together as make one part."""
    order = np.random.default_rng([config.seed, len(samples)]).permutation(len(samples))
    slices = np.split(order, range(config.part_samples, len(order), config.part_samples))
    return [[samples[index] for index in each] for each in slices]


def _encode_parts(
    output: Folder,
    slices: list[list[RawSample]],
    encoder: SampleEncoder,
    writer: VisionShardWriter,
    key: str,
    config: ImageDataConfig,
) -> list[PartResult[VisionPart]]:
    worker = part_worker(
        output,
        key,
        encoder,
        writer,
        row_tokens=config.row_tokens,
        stop=config.on_error == "stop",
    )
    return encode_slices(
        worker, slices, output=output, key=key, writer=writer, record=VisionPart, settings=config
    )
