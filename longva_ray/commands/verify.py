"""`longva verify`: whether shards are as they were written: of videos, or of training data."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import tyro

from longva_ray.files.places import absolute


@dataclass(frozen=True, kw_only=True)
class Options:
    """Read every shard. Encoded videos and images are compared with the digests written with them;
    token, vision and preference shards carry none: of them sizes, run and rows are checked."""

    store: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """Folder or URI of embedding, token, vision or preference shards."""


def run(options: Options) -> int:
    """Print what is damaged; 1 if anything is. Raises ValueError for a place without shards."""
    from longva_ray.data.images.shards import VisionShards
    from longva_ray.data.preferences.shards import PreferenceShards
    from longva_ray.data.text.shards import TokenShards
    from longva_ray.files.folder import Folder
    from longva_ray.shards.images import ImageStore
    from longva_ray.shards.store import ShardStore

    place = absolute(options.store)
    for shards in (TokenShards, VisionShards, PreferenceShards):
        if shards.kind.is_complete(Folder(place)):
            return _report(shards(place).verify(), f"parts of {shards.kind.title} are whole", place)
    verified = itertools.chain(ShardStore(place).verify(), ImageStore(place).verify())
    return _report(verified, "videos and images are as written", place)


def _report(verified: Iterable[Exception | None], what: str, place: str) -> int:
    """Print every error and a sum; the exit status."""
    found = []
    for error in verified:
        found.append(error)
        if error is not None:
            print(error, flush=True)
    if not found:
        raise ValueError(
            f"no encoded videos or images in {place}, nor finished shards of training data; a "
            "preparation that was interrupted checks its parts when it goes on"
        )
    print(f"{found.count(None)} of {len(found)} {what}")
    return 1 if any(found) else 0
