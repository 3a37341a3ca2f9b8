"""Visual tokens of images: encoded when they are first asked about, and kept beside the videos.

    <root>/images/<image_id>/<spec key>.safetensors     tokens_SD, and where they came from

`image_id` is a hash of the file's content, the key one of everything else that decides the tokens.
So the same image is encoded once, whatever its name, and tokens of two encoders never mix. This is
a cache: the folder `images` may be deleted at any time. An image is one small file, 1 MB a grid in
LongVA-7B, read whole. What it does not do: delete anything.

Shapes: S visual tokens, D width of the language model.
"""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from longva_ray.files.digest import digest_of
from longva_ray.files.folder import Folder
from longva_ray.lm.layout import load_longva_config
from longva_ray.settings.base import Dtype
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.shards.schema import ShardError
from longva_ray.vision.encoding import GridSettings

FOLDER = "images"

_SUFFIX = ".safetensors"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImageSpec:
    """Everything that decides the tokens of an image, apart from the image itself."""

    encoder_fingerprint: str
    """As in `EncodingSpec`."""
    grids: GridSettings
    """How the checkpoint cuts an image, and which tokens stand for it."""
    dtype: Dtype
    micro_batch: int

    @property
    def key(self) -> str:
        """Name of the file: the encoding, then 12 hex digits over every field."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return f"{self.grids.encoding}-{digest_of(text, num_bytes=6)}"


def image_spec(checkpoint: str, encoder_fingerprint: str, config: EncodeConfig) -> ImageSpec:
    """How a checkpoint encodes images under this config. Reads no weights."""
    return ImageSpec(
        encoder_fingerprint=encoder_fingerprint,
        grids=load_longva_config(checkpoint).grids,
        dtype=config.dtype,
        micro_batch=config.micro_batch,
    )


def image_id_of(content: bytes) -> str:
    """Image id: 32 hex digits over the content of its file."""
    return digest_of(content)


class ImageStore:
    """All encoded images below the root of a shard store."""

    def __init__(self, root: str | Path) -> None:
        self._folder = Folder(root)

    def is_there(self, image_id: str, spec: ImageSpec) -> bool:
        """Whether the image is encoded with exactly this spec."""
        return self._folder.size(_name(image_id, spec)) is not None

    def write(self, image_id: str, spec: ImageSpec, tokens_SD: torch.Tensor) -> None:
        """Write the tokens of an image, or nothing."""
        metadata = {"spec": json.dumps(dataclasses.asdict(spec)), "blake2b": _digest(tokens_SD)}
        content = safetensors.torch.save({"tokens": tokens_SD.contiguous()}, metadata)
        self._folder.write(_name(image_id, spec), content)

    def num_tokens(self, image_id: str, spec: ImageSpec) -> int:
        """S. Reads no tokens.

        Raises ShardError when the image is not there, or damaged."""
        with self._readable(name := _name(image_id, spec)), self._folder.open(name) as file:
            length = file.read(8)
            # Damage may say any length, and as much memory would be asked for.
            most = min(int.from_bytes(length, "little"), file.size())
            header = _header(length + file.read(most))
            return int(header["tokens"]["shape"][0])

    def tokens(self, image_id: str, spec: ImageSpec) -> torch.Tensor:
        """tokens_SD, compared with the digest that was stored with them.

        Raises ShardError when the image is not there, or damaged."""
        return self._tokens(_name(image_id, spec))

    def verify(self) -> Iterator[ShardError | None]:
        """Read every image and compare it with the digest stored with its tokens: for each what is
        wrong with it, or None."""
        files = self._folder.files(FOLDER, recursive=True)
        for path in sorted(info.path for info in files if info.path.endswith(_SUFFIX)):
            try:
                self._tokens(path.removeprefix(f"{self._folder.root}/"))
            except ShardError as error:
                yield error
            else:
                yield None

    def _tokens(self, name: str) -> torch.Tensor:
        with self._readable(name):
            content = self._folder.read(name)
            tokens_SD = safetensors.torch.load(content)["tokens"]
            stored = _header(content)["__metadata__"]["blake2b"]
        if _digest(tokens_SD) != stored:
            raise ShardError(
                f"{self._folder.path(name)} does not match its digest: the disk changed it; delete "
                "it, and the image is encoded again"
            )
        return tokens_SD

    @contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        """Turns whatever is wrong with a file into a ShardError that names it."""
        try:
            yield
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise ShardError(
                f"{self._folder.path(name)} cannot be read ({error}); delete it if it is there, "
                "and the image is encoded again when it is next sent"
            ) from error


def _name(image_id: str, spec: ImageSpec) -> str:
    return f"{FOLDER}/{image_id}/{spec.key}{_SUFFIX}"


def _header(content: bytes) -> Any:
    """What a safetensors file says of its content: a length, then JSON."""
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def _digest(tokens_SD: torch.Tensor) -> str:
    return digest_of(tokens_SD.contiguous().view(torch.uint8).numpy().data)
