"""The one way to fingerprint: BLAKE2b, in hex.

    digest_of("a name", some_bytes) -> 32 hex digits

The results are names on disk: ids of videos, folders of encodings, ledgers, keys of shards. So what
is hashed, and in which order, must stay as it is wherever these functions are called. Several
pieces give the same digest as their bytes in one piece.
"""

import json
from hashlib import blake2b
from pathlib import Path
from typing import Any


class Digest:
    """The digest of everything added so far."""

    def __init__(self, *, num_bytes: int = 16) -> None:
        self._hash = blake2b(digest_size=num_bytes)

    def add(self, *pieces: str | bytes | memoryview) -> "Digest":
        """Text counts as its UTF-8 bytes."""
        for piece in pieces:
            self._hash.update(piece.encode() if isinstance(piece, str) else piece)
        return self

    def add_file(self, path: str | Path) -> "Digest":
        with Path(path).open("rb") as file:
            while block := file.read(2**20):
                self._hash.update(block)
        return self

    def hex(self) -> str:
        return self._hash.hexdigest()


def digest_of(*pieces: str | bytes | memoryview, num_bytes: int = 16) -> str:
    """Two hex digits for each of `num_bytes`."""
    return Digest(num_bytes=num_bytes).add(*pieces).hex()


def fingerprint_of(*values: Any) -> str:
    """16 hex digits over values that JSON can hold, whatever the order of their keys."""
    return digest_of(json.dumps(values, sort_keys=True), num_bytes=8)
