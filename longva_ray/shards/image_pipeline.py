"""Images -> their visual tokens in a store, in parallel: a Ray Data graph of one stage.

Few images are large, so each is a task of its own. What the store has is not encoded again, so a
killed run goes on where it stopped. A bad image becomes an error in the result.
"""

import dataclasses
from collections.abc import Sequence

import ray
from ray.data import ActorPoolStrategy

from longva_ray.cluster.graph import graph_of
from longva_ray.cluster.job import connect
from longva_ray.progress import Progress
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.shards.image_encoder import EncodeImage
from longva_ray.shards.pipeline import plan_workers


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImageResult:
    """What became of one image."""

    path: str
    image_id: str
    error: str
    """Why it could not be encoded; empty when it was."""


def encode_images(
    paths: Sequence[str], *, store: str, checkpoint: str, config: EncodeConfig
) -> list[ImageResult]:
    """Encode images that every node can open, given by path or URI, into the store at a folder or
    URI; results in any order. No images, no graph.

    Raises ValueError when the cluster is too small for an encoder."""
    if not paths:
        return []
    connect()
    resources = ray.cluster_resources()
    plan = plan_workers(config, resources.get("CPU", 0.0), resources.get("GPU", 0.0))
    graph = graph_of([{"path": path} for path in paths]).map_batches(
        EncodeImage,
        fn_constructor_kwargs={"checkpoint": checkpoint, "config": config, "store": store},
        compute=ActorPoolStrategy(min_size=1, max_size=min(plan.max_encoders, len(paths))),
        num_cpus=config.encoder_cpus,
        num_gpus=config.encoder_gpus,
        batch_size=1,
        batch_format="numpy",
    )
    results = []
    with Progress("encoding images", unit="images", total=len(paths)) as progress:
        for row in graph.iter_rows():
            results.append(ImageResult(**row))
            progress.advance(1)
    return results
