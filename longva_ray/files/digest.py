"""The one way to fingerprint."""

import json
from hashlib import blake2b
from typing import Any


def fingerprint_of(*parts: Any) -> str:
    """16 hex digits over values that JSON can hold."""
    text = json.dumps(parts, sort_keys=True)
    return blake2b(text.encode(), digest_size=8).hexdigest()
