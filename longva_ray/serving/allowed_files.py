"""`file://` URL -> a path that this server may read, or why it may not.

Paths are resolved first, so neither `..` nor a symbolic link leads out of the allowed folders.
Nothing is ever fetched from the network.
"""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlparse

from longva_ray.serving.api import ApiError


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
        if nothing is there."""
        parsed = urlparse(url)
        if parsed.scheme != "file" or parsed.netloc not in ("", "localhost"):
            raise ApiError(
                400,
                "unsupported_url",
                f"{field} {url[:200]!r} is neither {instead} nor file:///path; this server fetches "
                "nothing from the network",
            )
        path = Path(unquote(parsed.path)).resolve()
        if not any(path.is_relative_to(root) for root in self._roots):
            raise ApiError(
                403,
                "path_not_allowed",
                f"{url[:200]} is outside the folders this server may read; start it with "
                "--allowed-roots to add one",
            )
        if not path.is_file():
            raise ApiError(404, "file_not_found", f"there is no file {path}")
        return path
