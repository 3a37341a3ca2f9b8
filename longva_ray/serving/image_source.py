"""`image_url` -> the content of an image file, whatever it turns out to hold.

It accepts `data:image/...;base64,` URLs, and `file://` paths below a folder that the operator
allowed. How long the content is shows before it is decoded or read. Nothing is ever fetched from
the network.
"""

import base64
import binascii
import string
from urllib.parse import unquote_to_bytes

from longva_ray.serving.allowed_files import AllowedFiles
from longva_ray.serving.api import ApiError


class ImageSource:
    """Reads what `image_url` parts of messages name."""

    def __init__(self, files: AllowedFiles, max_bytes: int) -> None:
        self._files = files
        self._max_bytes = max_bytes

    def content(self, url: str, what: str) -> bytes:
        """The bytes of an image file.

        Args:
            what: names the image in an error.

        Raises ApiError: 400 for another kind of URL, content that is too long or no base64; for a
        file as `AllowedFiles.path`."""
        if url[:5].lower() == "data:":
            return self._decoded(url, what)
        path = self._files.path(url, "image_url", "data:image/...;base64,...")
        try:
            self._check_size(path.stat().st_size, what)
            with path.open("rb") as file:
                content = file.read(self._max_bytes + 1)
        except OSError as error:  # it has just gone
            raise ApiError(
                404, "file_not_found", f"{what}, {path}, cannot be read: {error.strerror}"
            ) from error
        self._check_size(len(content), what)  # it may have grown
        return content

    def _decoded(self, url: str, what: str) -> bytes:
        header, _, payload = url.partition(",")
        kind = header[5:].lower()
        if not (kind.startswith("image/") and kind.endswith(";base64")):
            raise ApiError(
                400,
                "unsupported_url",
                f"{what} is a data: URL that begins with {url[:40]!r}; want data:image/...;base64,",
            )
        # Some clients break lines, as MIME does, and some escape what a URL may not hold.
        digits = unquote_to_bytes(payload).translate(None, string.whitespace.encode())
        self._check_size(len(digits) * 3 // 4 - digits[-2:].count(b"="), what)
        try:
            return base64.b64decode(digits, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ApiError(
                400, "invalid_image", f"{what} is a data: URL whose content is no base64: {error}"
            ) from error

    def _check_size(self, num_bytes: int, what: str) -> None:
        if num_bytes > self._max_bytes:
            raise ApiError(
                400,
                "image_too_large",
                f"{what} has {num_bytes} bytes, this server reads {self._max_bytes}; send it "
                "smaller, or as a JPEG",
            )
