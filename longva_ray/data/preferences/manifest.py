"""The manifest of preference shards: what was put in, and what came out.

pairs, encoded videos, reference model, settings -> Provenance
Provenance, results of all parts -> PreferenceMetadata
"""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from longva_ray.data.images.chat import RawSample
from longva_ray.data.preferences.seen import Seen
from longva_ray.data.preferences.shards import (
    PreferenceMetadata,
    PreferencePart,
    PreferenceShardError,
)
from longva_ray.data.sample_parts import PartResult, check_any
from longva_ray.files.digest import Digest, digest_of

_VERSIONS = ("longva-ray", "numpy", "pyarrow", "tokenizers", "torch", "transformers")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """What preference shards are made from, as their manifest says it."""

    source: tuple[str, ...]
    """The files that were read."""
    seen: Seen
    reference: str
    """Fingerprint of the checkpoint."""
    tokenizer: str
    """Fingerprint of its tokenizer."""
    settings: dict[str, Any]
    """Those that decide what is written."""
    key: str
    """Hash of the pairs, their videos, and all the above."""

    @classmethod
    def of(
        cls,
        samples: Sequence[RawSample],
        *,
        source: Sequence[str],
        seen: Seen,
        reference: str,
        tokenizer: str,
        settings: dict[str, Any],
    ) -> "Provenance":
        media = sorted((item.kind, item.place, medium.id) for item, medium in seen.media.items())
        digest = Digest().add(json.dumps([settings, reference, seen.spec.key, media]))
        for sample in samples:
            digest.add(sample.text)
        return cls(
            source=tuple(source),
            seen=seen,
            reference=reference,
            tokenizer=tokenizer,
            settings=settings,
            key=digest.hex(),
        )


def manifest_of(
    results: Sequence[PartResult[PreferencePart]], origin: Provenance
) -> PreferenceMetadata:
    """The manifest of these parts. Raises PreferenceShardError if no pair could be used."""
    check_any(results, PreferenceShardError)
    records = [result.record for result in results]
    return PreferenceMetadata(
        num_samples=sum(record.num_samples for record in records),
        num_left_out=sum(len(result.left_out) for result in results),
        num_tokens=sum(record.num_tokens for record in records),
        num_trained=sum(record.num_trained for record in records),
        store=origin.seen.store,
        encoding=origin.seen.spec.stored(),
        reference=origin.reference,
        source=origin.source,
        key=origin.key,
        content_key=digest_of(json.dumps([record.digest for record in records])),
        settings=origin.settings,
        versions={name: version(name) for name in _VERSIONS},
        part_rows=tuple(record.num_samples for record in records),
        part_bytes=tuple(record.num_bytes for record in records),
        row_tokens=tuple(itertools.chain.from_iterable(record.row_tokens for record in records)),
        row_grids=tuple(itertools.chain.from_iterable(record.row_grids for record in records)),
        tokenizer=origin.tokenizer,
    )
