"""The bytes of a file of text, and an error that tells a lost connection from a damaged file.

SourceFile -> a stream to read and seek
"""

import contextlib
import io
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa

from longva_ray.data.text.files import SourceFile, TextError
from longva_ray.files.folder import Folder

_READ_BYTES = 2**20


@contextlib.contextmanager
def open_source(file: SourceFile) -> Iterator[BinaryIO]:
    """The bytes of a file.

    Raises TextError, now or while they are read, when they cannot be had: a network that fails must
    not look like a shorter file.
    """
    filesystem = Folder(file.place).filesystem
    with _delivering(file.path):
        raw = filesystem.open_input_file(file.path)
    # An object store is asked for this much at a time, however little a decoder reads.
    with raw, io.BufferedReader(_Delivery(raw, file.path), buffer_size=_READ_BYTES) as source:
        yield source


@contextlib.contextmanager
def _delivering(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TextError(
            f"{path} cannot be fetched ({error}); run again, what is finished is kept"
        ) from error


class _Delivery(io.RawIOBase):
    """The bytes of a file. When they do not arrive, that is another error than when a decoder finds
    no sense in them: Arrow has OSError for both."""

    def __init__(self, raw: pa.NativeFile, path: str) -> None:
        self._raw = raw
        self._path = path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _delivering(self._path):
            return int(self._raw.readinto(buffer))

    def seek(self, position: int, whence: int = 0) -> int:
        return int(self._raw.seek(position, whence))

    def tell(self) -> int:
        return int(self._raw.tell())
