"""`longva verify`: compare every shard of a store with the digest that was written with it."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from longva_ray.files.places import absolute


@dataclass(frozen=True, kw_only=True)
class Options:
    """Read every shard of a store and compare it with the digest that was written with it."""

    store: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """Folder or URI of the shards."""


def run(options: Options) -> int:
    """Print what is damaged; 1 if anything is. Raises ValueError for a store without videos."""
    from longva_ray.shards.store import ShardStore

    store = ShardStore(absolute(options.store))
    found = []
    for error in store.verify():
        found.append(error)
        if error is not None:
            print(error, flush=True)
    if not found:
        raise ValueError(f"no encoded videos in {store.root}")
    print(f"{found.count(None)} of {len(found)} videos are as written")
    return 1 if any(found) else 0
