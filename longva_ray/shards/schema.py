"""What an embedding shard holds: the seam between encoding (once) and everything that reads visual
tokens (many times).

One encoded video is a folder `<root>/<video_id>/<spec key>/` with

    part-00000.arrow ...   Arrow IPC, `part_frames` frames each: frame_index, timestamp_s, tokens
    video.json             written last: says that every part is there, and lists their sizes

`video_id` is a hash of the file's content, and the spec key a hash of everything that decides the
tokens' bytes, so the same video encoded twice the same way lands in the same place, and differently
encoded tokens can never be mixed. Tokens are a fixed-shape tensor column [Q tokens a frame, D
width]. Arrow has no bfloat16: its bits are stored as uint16 and the real number format stands in
the metadata, so 16-bit tokens of either kind survive unchanged.

Torch is imported where tensors are made: workers that only decode and write start without it.

Shapes: F frames, Q visual tokens of one frame, D width of the language model.
"""

# No `from __future__ import annotations`: reading JSON goes by the real types of fields.

import dataclasses
import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from longva_ray.files.digest import Digest, digest_of
from longva_ray.settings.base import Dtype, from_dict
from longva_ray.video.canvas import Resize
from longva_ray.video.fitting import Fitting
from longva_ray.video.probe import DecoderName
from longva_ray.video.sampling import Sampling

if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 1

METADATA_KEY = b"longva_ray"

_VIDEO_ID = re.compile(r"[0-9a-f]{32}")

_STORED_AS = {"float32": pa.float32(), "float16": pa.float16(), "bfloat16": pa.uint16()}


class ShardError(ValueError):
    """A shard is missing, damaged, or was made by another encoder."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EncodingSpec:
    """Everything that decides the tokens of a video, apart from the video itself: the provenance of
    a shard."""

    encoder_fingerprint: str
    """Hash of the tower's and projector's weights, feature layer, pooling and normalisation."""
    sampling: str
    """As `EncodeConfig` has it."""
    fitting: Fitting
    decoder: DecoderName
    frame_size: int
    """Side of a fitted frame in pixels."""
    dtype: Dtype
    tokens_per_frame: int
    width: int
    micro_batch: int
    """Batched products round differently by batch size, so it is part of what makes runs equal bit
    for bit."""
    part_frames: int
    resize: Resize = "decoder"
    origin: Literal["file", "client"] = "file"
    """Where frames were decoded: from a video file here, or by the client that sent them."""
    format_version: int = FORMAT_VERSION

    @property
    def key(self) -> str:
        """Folder name: readable sampling, then 12 hex digits over every field."""
        stored = self.stored()
        text = json.dumps(stored, sort_keys=True)
        return f"{stored['sampling'].replace(':', '-')}-{digest_of(text, num_bytes=6)}"

    def stored(self) -> dict[str, Any]:
        """As it is written and hashed: an encoding keeps its name for ever, whatever settings are
        added. So a later one is left out where it says what was done before it came."""
        values = dataclasses.asdict(self) | {"sampling": Sampling.parse(self.sampling).stored}
        if self.resize == "decoder":
            del values["resize"]
        if self.origin == "file":
            del values["origin"]
        return values

    @classmethod
    def from_stored(cls, values: dict[str, Any]) -> "EncodingSpec":
        """What `stored` gave. Raises ValueError for an unknown field or rule."""
        return from_dict(cls, values | {"sampling": str(Sampling.parse_stored(values["sampling"]))})

    def num_parts(self, num_frames: int) -> int:
        """Parts that `num_frames` sampled frames fill."""
        return -(-num_frames // self.part_frames)

    def part_rows(self, part: int, num_frames: int) -> range:
        """Rows (positions among the sampled frames) that one part holds."""
        return range(part * self.part_frames, min((part + 1) * self.part_frames, num_frames))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VideoRecord:
    """Content of `video.json`: what a reader has to know before it opens a part."""

    video_id: str
    spec: EncodingSpec
    source: str
    """Name of the file that was encoded, without its folder."""
    num_frames: int
    """Sampled frames, all parts together."""
    duration_s: float
    part_bytes: tuple[int, ...]

    def to_json(self) -> str:
        values = dataclasses.asdict(self) | {"spec": self.spec.stored()}
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "VideoRecord":
        values = json.loads(text)
        return from_dict(cls, values | {"spec": EncodingSpec.from_stored(values["spec"])})


def is_video_id(text: str) -> bool:
    """Whether a text has the form of `hash_video`'s, so that it names a video of a store."""
    return _VIDEO_ID.fullmatch(text) is not None


def hash_video(path: str | Path) -> str:
    """Video id: 32 hex digits of BLAKE2b over the file's content."""
    return Digest().add_file(path).hex()


def part_schema(spec: EncodingSpec, **metadata: Any) -> pa.Schema:
    """Arrow schema of one part; `metadata` is stored with the spec."""
    storage = _STORED_AS[spec.dtype]
    described = {"spec": spec.stored(), **metadata}
    return pa.schema(
        [
            pa.field("frame_index", pa.int64(), nullable=False),
            pa.field("timestamp_s", pa.float64(), nullable=False),
            pa.field(
                "tokens",
                pa.fixed_shape_tensor(storage, [spec.tokens_per_frame, spec.width]),
                nullable=False,
            ),
        ],
        metadata={METADATA_KEY: json.dumps(described, sort_keys=True).encode()},
    )


def column_dtype(spec: EncodingSpec) -> np.dtype[Any]:
    """The numbers of the token column: those of the spec, but the bits of bfloat16 as uint16."""
    return np.dtype(_STORED_AS[spec.dtype].to_pandas_dtype())


def tensor_to_stored(tokens_FQD: "torch.Tensor") -> npt.NDArray[Any]:
    """Tokens as the numbers that are stored, without changing a bit."""
    import torch

    tokens_FQD = tokens_FQD.detach().cpu().contiguous()
    if tokens_FQD.dtype == torch.bfloat16:
        tokens_FQD = tokens_FQD.view(torch.uint16)
    return tokens_FQD.numpy()


def stored_to_column(tokens_FQD: npt.NDArray[Any], spec: EncodingSpec) -> pa.ExtensionArray:
    """Tokens in their stored numbers as the schema's tensor column."""
    wanted = (len(tokens_FQD), spec.tokens_per_frame, spec.width)
    dtype = column_dtype(spec)
    if tokens_FQD.dtype != dtype or tokens_FQD.shape != wanted:
        raise ShardError(
            f"tokens are {tokens_FQD.dtype} {tokens_FQD.shape}, but the spec says {dtype} {wanted}"
        )
    per_frame = spec.tokens_per_frame * spec.width
    storage = pa.FixedSizeListArray.from_arrays(pa.array(tokens_FQD.ravel()), per_frame)
    return pa.ExtensionArray.from_storage(part_schema(spec).field("tokens").type, storage)


def column_to_tensor(column: pa.ExtensionArray, spec: EncodingSpec) -> "torch.Tensor":
    """Tokens FQD of a tensor column as a view on Arrow's memory (nothing is copied; do not write to
    it)."""
    import torch

    values = column.storage.flatten().to_numpy(zero_copy_only=True)
    with warnings.catch_warnings():
        # Memory-mapped pages are read-only and torch has no read-only tensors; the docstring
        # carries the rule.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        flat = torch.from_numpy(values)
    return flat.view(getattr(torch, spec.dtype)).view(
        len(column), spec.tokens_per_frame, spec.width
    )
