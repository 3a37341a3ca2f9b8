"""The manifest of vision shards: what was put in, and what came out.

samples, tokenizer, grids, settings -> Provenance
Provenance, results of all parts -> VisionShardsMetadata
"""

import dataclasses
import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from longva_ray.data.images.chat import RawSample
from longva_ray.data.images.shards import VisionPart, VisionShardError, VisionShardsMetadata
from longva_ray.data.sample_parts import PartResult, check_any
from longva_ray.files.digest import Digest, digest_of
from longva_ray.lm.longva_config import LongVAConfig
from longva_ray.video.sampling import Sampling
from longva_ray.vision.encoding import GridSettings

_VERSIONS = ("longva-ray", "numpy", "pillow", "pyarrow", "tokenizers", "transformers")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """What vision shards are made from, as their manifest says it."""

    source: tuple[str, ...]
    """The files that were read."""
    grids: GridSettings
    tokenizer_fingerprint: str
    settings: dict[str, Any]
    """Those that decide what is written."""
    key: str
    """Hash of samples and all the above."""

    @classmethod
    def of(
        cls,
        samples: Sequence[RawSample],
        *,
        source: Sequence[str],
        grids: GridSettings,
        tokenizer_fingerprint: str,
        settings: dict[str, Any],
    ) -> "Provenance":
        decides = [settings, tokenizer_fingerprint, dataclasses.asdict(grids)]
        digest = Digest().add(json.dumps(decides))
        for sample in samples:
            digest.add(sample.text)
        return cls(
            source=tuple(source),
            grids=grids,
            tokenizer_fingerprint=tokenizer_fingerprint,
            settings=settings,
            key=digest.hex(),
        )


def video_settings(
    sampling: str, model: LongVAConfig, samples: Sequence[RawSample]
) -> dict[str, Any]:
    """How the manifest names what decides the frames of videos: the rule that takes them
    (`Sampling.stored`), and their fitting where it is not that of images.

    Without videos neither decides anything. Then the rule's text stays as it is, and shards of
    images that were made when "1fps" was another rule are still found.
    """
    if not any(isinstance(each.content, dict) and each.content.get("video") for each in samples):
        return {"sampling": sampling}
    settings = {"sampling": Sampling.parse(sampling).stored}
    if model.fitting_of_videos != model.frame_fitting:
        settings["video_fitting"] = model.fitting_of_videos
    return settings


def manifest_of(
    results: Sequence[PartResult[VisionPart]], origin: Provenance
) -> VisionShardsMetadata:
    """The manifest of these parts. Raises VisionShardError if no sample could be used."""
    records = [result.record for result in results]
    left_out = [each for result in results for each in result.left_out]
    check_any(results, VisionShardError)
    return VisionShardsMetadata(
        row_tokens=tuple(length for record in records for length in record.row_tokens),
        row_grids=tuple(number for record in records for number in record.row_grids),
        num_samples=sum(record.num_samples for record in records),
        num_left_out=len(left_out),
        num_trained=sum(record.num_trained for record in records),
        grids=origin.grids,
        tokenizer_fingerprint=origin.tokenizer_fingerprint,
        source=origin.source,
        key=origin.key,
        content_key=digest_of(json.dumps([record.digest for record in records])),
        settings=origin.settings,
        versions={name: version(name) for name in _VERSIONS},
        part_rows=tuple(len(record.row_tokens) for record in records),
        part_bytes=tuple(record.num_bytes for record in records),
    )
