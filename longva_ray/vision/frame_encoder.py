"""Grids to visual tokens: CLIP tower, projector, and the only pooling there is.

    grids_GYXC (uint8) -> tokens_GQD                      frames of a video
    grids_GYXC, source_S2 -> tokens_SD                    images

Section 3.2 of the LongVA paper: 336-pixel grids, 24 x 24 patches, 2x2 pooling *after* the MLP, so Q
= 144 tokens a grid in raster order within the grid. An N-frame video is N grids, hence 144 N
tokens. The same holds for images with UniRes. With AnyRes images are not pooled, and sources say
which token stands where (`encoding`). Grids go through in micro-batches; memory is that of one
micro-batch plus the result. Does not resize frames (`video`, `unires` do).

Shape suffixes: G grids, C channels, Y and X pixel rows and columns, P and Q patches before and
after pooling (p and q along one side), K all tokens made of a grid, S visual tokens of images, 2
the grid of a token and its number there, V vision width, D language-model width.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPVisionConfig
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from longva_ray.files.digest import Digest
from longva_ray.vision.anyres import NEWLINE
from longva_ray.vision.clip_tower import ClipTower
from longva_ray.vision.encoding import Encoding
from longva_ray.vision.projector import SHARPNESS, Projector
from longva_ray.vision.tower_config import grid_and_patch_side

# Enough grids to keep a GPU busy with ViT-L/336, few enough for their activations to be small.
MICRO_BATCH = 16


class FrameEncoder(nn.Module):
    """CLIP tower + projector + pooling.

    Attributes:
        grid_size: side of a grid in pixels.
        tokens_per_grid: Q, visual tokens of one grid.
        width: D, width of a visual token (that of the language model).
        source: where its weights come from, for errors.
    """

    def __init__(
        self,
        vision_config: CLIPVisionConfig,
        *,
        width: int,
        feature_layer: int,
        pool_stride: int,
        hidden_act: str,
        encoding: Encoding = "unires",
        num_words: int | None = None,
    ) -> None:
        """Build with random weights; `encoding` is that of images, `num_words` as in `Projector`.

        Raises:
            ValueError: the tower has no such layer, or the patches of a grid do not divide into
                pooling windows.
        """
        super().__init__()
        self.source = "this encoder"
        self.grid_size, side_p = grid_and_patch_side(vision_config)
        if side_p % pool_stride:
            raise ValueError(
                f"a grid of {side_p}x{side_p} patches does not divide into {pool_stride}x"
                f"{pool_stride} pooling windows; want image_size/patch_size divisible by "
                "pool_stride"
            )
        self.tokens_per_grid = (side_p // pool_stride) ** 2
        self.width = width
        self.pool_stride = pool_stride
        self.tower = ClipTower(vision_config, feature_layer=feature_layer)
        self.projector = Projector(
            vision_config.hidden_size,
            width,
            hidden_act=hidden_act,
            newline=encoding == "anyres",
            num_words=num_words,
        )
        self._token_config: dict[str, Any] = {
            "vision_config": _shaping_values(vision_config),
            "feature_layer": self.tower.clip.config.num_hidden_layers,
            "projector_hidden_act": hidden_act,
            "pooling": f"average {pool_stride}x{pool_stride} after the projector",
            "mean": OPENAI_CLIP_MEAN,
            "std": OPENAI_CLIP_STD,
        }
        if num_words is not None:
            self._token_config["sharpness"] = SHARPNESS

    def forward(
        self, grids_GYXC: Tensor | NDArray[np.uint8], micro_batch: int = MICRO_BATCH
    ) -> Tensor:
        """Visual tokens of frames, with gradients; `encode` is the same without them.

        Micro-batch i holds grids [i * micro_batch, (i + 1) * micro_batch), whatever they show, so
        that the same grids at the same positions give the same bits.

        Raises:
            ValueError: not uint8, not of shape (G, grid_size, grid_size, 3), or a micro-batch below
                1.
        """
        return self._in_micro_batches(self._frame_tokens, grids_GYXC, micro_batch)

    @torch.inference_mode()
    def encode(self, grids_GYXC: Tensor | NDArray[np.uint8], *, micro_batch: int) -> Tensor:
        """Visual tokens: grids_GYXC uint8 (any device) -> tokens_GQD on the encoder's device.

        Raises:
            ValueError: as `forward`.
            FloatingPointError: as `check_finite`.
        """
        return self.check_finite(self.forward(grids_GYXC, micro_batch))

    def check_finite(self, tokens: Tensor) -> Tensor:
        """The same visual tokens. Those that are not finite would be kept in a store, and blamed on
        the language model when it reads them.

        Raises:
            FloatingPointError: a number is infinite or NaN.
        """
        finite = tokens.isfinite()
        if not bool(finite.all()):
            number_format = str(tokens.dtype).removeprefix("torch.")
            raise FloatingPointError(
                f"{int((~finite).sum())} of {tokens.numel()} numbers of visual tokens are not "
                f"finite; the vision weights of {self.source} are damaged or leave the range of "
                f"{number_format}: encode with --encode.dtype float32 or bfloat16, or fetch them "
                "again"
            )
        return tokens

    def encode_images(
        self,
        grids_GYXC: Tensor | NDArray[np.uint8],
        source_S2: Tensor | None,
        micro_batch: int = MICRO_BATCH,
    ) -> Tensor:
        """Visual tokens of images with gradients: grids_GYXC, source_S2 -> tokens_SD.

        Args:
            source_S2: of all images (`encoding.Cut`); None for UniRes, whose tokens keep the order
                in which they are made.

        Raises:
            ValueError: as `forward`, or an AnyRes image without sources.
        """
        if source_S2 is None:
            if self.projector.newline is not None:
                raise ValueError(
                    "grids alone do not say how an AnyRes image was cut; want its image_sources, "
                    "which the processor returns with the pixels"
                )
            return self.forward(grids_GYXC, micro_batch).flatten(0, 1)
        tokens_GKD = self._in_micro_batches(self.grid_tokens, grids_GYXC, micro_batch)
        return self.arrange(tokens_GKD, source_S2.to(tokens_GKD.device))

    def fingerprint(self) -> str:
        """32 hex digits over everything that changes the tokens: weights and configuration.

        Names, dtypes, shapes and bytes of the weights (blake2b), layer, pooling, normalisation,
        grid size. The same on every device, and after saving and loading; another dtype is another
        encoder. The encoding of images is left out, since frames have the same tokens with both.
        The newline of AnyRes is a weight like others. Reads all weights: about a second for CLIP-L.
        """
        digest = Digest().add(json.dumps(self._token_config, sort_keys=True))
        for name, weight in sorted(self.state_dict().items()):
            value = weight.cpu().contiguous()
            digest.add(f"{name} {value.dtype} {tuple(value.shape)}")
            digest.add(value.view(-1).view(torch.uint8).numpy().data)
        return digest.hex()

    def _check(self, grids_GYXC: Tensor | NDArray[np.uint8], micro_batch: int) -> None:
        if micro_batch < 1:
            raise ValueError(f"micro_batch={micro_batch}, want at least 1")
        wanted = (self.grid_size, self.grid_size, 3)
        if grids_GYXC.ndim != 4 or tuple(grids_GYXC.shape[1:]) != wanted:
            raise ValueError(
                f"grids have shape {tuple(grids_GYXC.shape)}, want (G, {self.grid_size}, "
                f"{self.grid_size}, 3); fit frames to the grid size first "
                "(longva_ray.video.fitting, longva_ray.vision.unires)"
            )
        if grids_GYXC.dtype not in (np.uint8, torch.uint8):
            raise ValueError(f"grids have dtype {grids_GYXC.dtype}, want uint8 pixels (0 to 255)")

    def _in_micro_batches(
        self,
        encode: Callable[[Tensor], Tensor],
        grids_GYXC: Tensor | NDArray[np.uint8],
        micro_batch: int,
    ) -> Tensor:
        self._check(grids_GYXC, micro_batch)
        weight = self.projector.linear_2.weight
        if not len(grids_GYXC):
            return weight.new_empty(0, self.tokens_per_grid, self.width)
        tokens = []
        for start in range(0, len(grids_GYXC), micro_batch):
            part = grids_GYXC[start : start + micro_batch]
            # torch.tensor copies: arrays from Arrow or Ray are read-only, which torch.from_numpy
            # warns about.
            pixels = torch.tensor(part) if isinstance(part, np.ndarray) else part
            tokens.append(encode(pixels.to(weight.device)))
        return torch.cat(tokens)

    def grid_tokens(self, grids_GYXC: Tensor) -> Tensor:
        """All tokens that images and videos may show of these grids: tokens_GKD.

        The Q pooled ones, and with AnyRes the P patches after them. One micro-batch, with
        gradients, on the device of its pixels: trainers may keep weights elsewhere until a layer
        uses them, so the place of the weights does not tell where to compute.
        """
        patches_GPD = self._patches(grids_GYXC)
        tokens_GQD = self._pool(patches_GPD)
        if self.projector.newline is None:
            return tokens_GQD
        return torch.cat([tokens_GQD, patches_GPD], dim=1)

    def arrange(self, tokens_GKD: Tensor, source_S2: Tensor) -> Tensor:
        """The tokens of `grid_tokens` that images and videos show, in their order: tokens_SD."""
        grid_S, number_S = source_S2.long().unbind(-1)
        is_newline_S = grid_S == NEWLINE
        tokens_SD = tokens_GKD[grid_S.masked_fill(is_newline_S, 0), number_S]
        if self.projector.newline is None:
            return tokens_SD
        return self.projector.newline(tokens_SD, is_newline_S)

    def _frame_tokens(self, frames_GYXC: Tensor) -> Tensor:
        return self._pool(self._patches(frames_GYXC))

    def _patches(self, grids_GYXC: Tensor) -> Tensor:
        return self.projector(self.tower(self._normalise(grids_GYXC)))

    @staticmethod
    def _normalise(grids_GYXC: Tensor) -> Tensor:
        """CLIP's mean and std, always in float32, as in CLIP's processor."""
        mean = torch.tensor(OPENAI_CLIP_MEAN, device=grids_GYXC.device)
        std = torch.tensor(OPENAI_CLIP_STD, device=grids_GYXC.device)
        pixels_GYXC = (grids_GYXC.to(torch.float32) / 255 - mean) / std
        return pixels_GYXC.permute(0, 3, 1, 2)

    def _pool(self, patches_GPD: Tensor) -> Tensor:
        """Average over square windows inside each grid; raster order in, raster order out."""
        grids, patches, width = patches_GPD.shape
        side_p = int(patches**0.5)
        patches_GDpp = patches_GPD.transpose(1, 2).reshape(grids, width, side_p, side_p)
        tokens_GDqq = nn.functional.avg_pool2d(patches_GDpp, self.pool_stride)
        return tokens_GDqq.flatten(2).transpose(1, 2)


def _shaping_values(vision_config: CLIPVisionConfig) -> dict[str, Any]:
    """What of the tower's configuration changes its output but not its weights' shapes."""
    names = ("image_size", "patch_size", "num_attention_heads", "hidden_act", "layer_norm_eps")
    return {name: vision_config.to_dict()[name] for name in names}
