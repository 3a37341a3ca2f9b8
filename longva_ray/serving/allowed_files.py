"""`file://` URL -> a path that this server may read, or why it may not.

Paths are resolved first, so neither `..` nor a symbolic link leads out of the allowed folders.
Nothing is ever fetched from the network.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from longva_ray.serving.api import ApiError

_FILE_URL = re.compile(r"file:(?://(?:localhost)?(?=/)|(?!//))(/[^?#]*)", re.IGNORECASE)
"""`file:///path`, `file://localhost/path` or `file:/path`. What stands after ? or # is no part of a
path, so it would be lost: a name cut off there may be that of another file."""


class AllowedFiles:
    """Files below the folders that an operator allowed."""

    def __init__(self, roots: Sequence[str | Path]) -> None:
        self._roots = [Path(root).resolve() for root in roots]

    def path(self, url: str, field: str, instead: str) -> Path:
        """The file that a URL names.

        Args:
            field: of the message, for an error.
            instead: what else that field may hold, likewise.

        Raises ApiError: 400 for another kind of URL, 403 for a path outside the allowed roots, 404
        if no file that can be read is there."""
        named = _FILE_URL.fullmatch(url.strip())
        if named is None:
            raise ApiError(
                400,
                "unsupported_url",
                f"{field} {url[:200]!r} is neither {instead} nor file:///path, in which ? and # "
                "are written %3F and %23; this server fetches nothing from the network",
            )
        try:
            path = Path(unquote(named[1])).resolve()
            if not any(path.is_relative_to(root) for root in self._roots):
                raise ApiError(
                    403,
                    "path_not_allowed",
                    f"{url[:200]} is outside the folders this server may read; start it with "
                    "--allowed-roots to add one",
                )
            is_there = path.is_file() and os.access(path, os.R_OK)
        # A name too long, a folder that may not be entered; links in a circle; a zero byte.
        except (OSError, RuntimeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ApiError(
                404, "file_not_found", f"{url[:200]} names no file: {str(reason)[:200]}"
            ) from error
        if not is_there:
            raise ApiError(404, "file_not_found", f"there is no file {path} that can be read")
        return path
