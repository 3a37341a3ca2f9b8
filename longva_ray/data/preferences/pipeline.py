"""Pairs of answers -> preference shards, in parallel and resumable.

    files -> pairs -> videos, folders of frames, images -> embedding store
                   -> slices of pairs -> tokens, and log-probabilities of the reference -> parts
                                         (actors, each with the reference model)

Each video is encoded once, into a store that training, evaluation and serving share. Then every
pair is read by the model before training, whose log-probabilities are kept, unless that is left to
training. Finished parts stay on
disk, and a killed run goes on where it stopped. A pair that cannot be used is named in report.json
with its reason. Pairs about one video are held out together, or not at all.
"""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import Any

from longva_ray.answer.engine import AnswerEngine
from longva_ray.data.held_out import hold_out
from longva_ray.data.images.chat import Item, RawSample, SampleError, read_samples, shown
from longva_ray.data.preferences.manifest import Provenance, manifest_of
from longva_ray.data.preferences.media import encode_media
from longva_ray.data.preferences.pairs import parse_pair
from longva_ray.data.preferences.score import PairScorer
from longva_ray.data.preferences.shards import (
    PREFERENCE_SHARDS,
    PreferenceMetadata,
    PreferencePart,
    PreferenceRow,
    PreferenceShardError,
    PreferenceShardWriter,
)
from longva_ray.data.preparation import check_same, deciding_settings, encode_slices
from longva_ray.data.sample_parts import EncodePart
from longva_ray.data.sample_report import write_report
from longva_ray.files.digest import digest_of
from longva_ray.files.folder import Folder
from longva_ray.files.parts import HELD_OUT, clean
from longva_ray.lm.fingerprints import fingerprint_checkpoint, tokenizer_fingerprint
from longva_ray.lm.layout import load_longva_config, open_checkpoint
from longva_ray.settings.data import PreferenceDataConfig
from longva_ray.settings.encoding import EncodeConfig

logger = logging.getLogger(__name__)

_NOT_DECIDING = ("on_error", "task_cpus", "task_gpus", "max_tasks")
"""Settings that do not decide what is written."""

_ADDED = ("reference", "pixels")
"""Settings that shards of the first version were made without."""


def prepare_preferences(
    places: Sequence[str],
    *,
    output: str,
    store: str,
    checkpoint: str,
    config: PreferenceDataConfig,
    encode: EncodeConfig,
) -> PreferenceMetadata:
    """Turn preference files into shards in `output`, a folder or URI that every node reaches.

    Next to the shards lies report.json. Shards that are already there, made from the same pairs in
    the same way, are left as they are.

    Args:
        places: files and mixtures (`data.images.chat.read_samples`).
        store: where videos are encoded to, as every node reaches it.
        checkpoint: the LongVA that training will start from, and is compared with.

    Raises ValueError for files that cannot be read, a folder that holds other shards, or if no pair
    can be used.
    """
    samples = read_samples(places, image_folder=config.media_folder, seed=config.seed)
    seen = encode_media(_items(samples), store, checkpoint, encode)
    origin = Provenance.of(
        samples,
        source=places,
        seen=seen,
        reference=fingerprint_checkpoint(checkpoint),
        settings=deciding_settings(config, _NOT_DECIDING, _ADDED),
        tokenizer=tokenizer_fingerprint(open_checkpoint(checkpoint).tokenizer()),
    )
    folder = Folder(output)
    if PREFERENCE_SHARDS.is_complete(folder):
        return _existing(folder, origin)
    if config.held_out is not None:
        held_out, samples = hold_out(samples, shown, config.held_out, config.seed)
        apart = dataclasses.replace(origin, key=digest_of(origin.key, HELD_OUT))
        _write(held_out, folder.inside(HELD_OUT), apart, checkpoint, config)
    else:  # what an interrupted run with other settings may have left
        folder.delete(HELD_OUT)
    return _write(samples, folder, origin, checkpoint, config)


def _write(
    samples: Sequence[RawSample],
    folder: Folder,
    origin: Provenance,
    checkpoint: str,
    config: PreferenceDataConfig,
) -> PreferenceMetadata:
    """Write shards and report into a folder."""
    size = config.part_pairs
    writer = PreferenceShardWriter(folder.place, key=origin.key, pixels=config.pixels)
    results = encode_slices(
        functools.partial(_make_worker, folder, origin, checkpoint, writer, config),
        [samples[start : start + size] for start in range(0, len(samples), size)],
        output=folder,
        key=origin.key,
        writer=writer,
        record=PreferencePart,
        settings=config,
        gpus=config.task_gpus if config.reference == "stored" else 0,
    )
    metadata = manifest_of(results, origin)
    write_report(folder, metadata.numbers, results)
    writer.commit(metadata)
    clean(folder, len(results))
    return metadata


def _items(samples: Sequence[RawSample]) -> set[Item]:
    """Videos and images of all samples that are pairs."""
    items = set()
    for sample in samples:
        try:
            items.add(parse_pair(sample).item)
        except SampleError:
            continue  # the part that it belongs to says so
    return items


def _make_worker(
    output: Folder,
    origin: Provenance,
    checkpoint: str,
    writer: PreferenceShardWriter,
    config: PreferenceDataConfig,
) -> EncodePart[PreferenceRow, PreferenceRow, PreferencePart]:
    """Worker: holds the reference model, scores a slice of pairs and writes it as one part."""
    engine = None
    if config.reference == "stored":
        engine = AnswerEngine(checkpoint, dtype=config.dtype, prefill_chunk=config.prefill_chunk)
    scorer = PairScorer(
        open_checkpoint(checkpoint).tokenizer(),
        engine,
        origin.seen,
        load_longva_config(checkpoint).grids,
        frames=config.frames,
        max_tokens=config.max_tokens,
        pixels=config.pixels,
    )
    return EncodePart(
        output,
        origin.key,
        scorer.score,
        iter,
        writer,
        stop=config.on_error == "stop",
        settings="preferences",
        error=PreferenceShardError,
    )


def _existing(output: Folder, origin: Provenance) -> PreferenceMetadata:
    """The manifest of a run that had finished; ValueError if it is one of another run."""
    found = PREFERENCE_SHARDS.read_manifest(output)

    def known(spec: str, reference: str, settings: dict[str, Any]) -> dict[str, Any]:
        return {"kind of encoding": spec, "model": reference, **settings}

    check_same(
        PREFERENCE_SHARDS,
        output.place,
        known(found.spec.key, found.reference, found.settings),
        known(origin.seen.spec.key, origin.reference, origin.settings),
    )
    check_same(
        PREFERENCE_SHARDS, output.place, {"set of pairs": found.key}, {"set of pairs": origin.key}
    )
    logger.info("%s already holds these shards", output.place)
    return found
