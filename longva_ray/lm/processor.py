"""Images, videos and text to the model's inputs, in transformers' conventions.

    text with <image>/<video> + PIL images + videos FYXC -> input_ids, attention_mask, pixel_values,
    image_sources, pixel_values_videos

`pixel_values` are uint8 grids_GYXC of all images, `image_sources` says which token of them stands
where (`vision.encoding`), `pixel_values_videos` are uint8 frames_FYXC of all videos: normalising is
the frame encoder's part. `processor.apply_chat_template(messages,
tokenize=True, return_dict=True)` goes from messages to inputs, and encodes special tokens typed by
a user as plain text. Frames not of the grid's size are fitted by the one rule of the checkpoint.
Does not decode video files and does not need torchvision.

Shape suffixes: B batch, T tokens, G grids, F frames, Y/X/C pixel axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from longva_ray.lm.longva_config import LongVAConfig
from longva_ray.lm.prompt import (
    CHAT_TEMPLATE,
    check_prompt_length,
    expand_placeholders,
    placeholder_ids,
)
from longva_ray.video.fitting import Fitting
from longva_ray.vision.encoding import Cut, Encoding, GridSettings, join_sources
from longva_ray.vision.fit_image import whole_image
from longva_ray.vision.unires import GRID_SIZE, MAX_GRIDS, GridRule


class LongVAProcessor(ProcessorMixin):
    """Tokenizer, encoding of images and frame fitting of one checkpoint."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        grid_size: int = GRID_SIZE,
        tokens_per_grid: int = 144,
        max_grids: int = MAX_GRIDS,
        grid_rule: GridRule = "paper",
        frame_fitting: Fitting = "letterbox",
        max_prompt_tokens: int | None = None,
        encoding: Encoding = "unires",
        pool_stride: int = 2,
        video_fitting: Fitting | None = None,
    ) -> None:
        """
        Args:
            tokenizer: with `<image>`, `<video>` and ChatML's tokens.
            chat_template: None for the project's (`prompt.CHAT_TEMPLATE`).
            grid_size, tokens_per_grid, max_grids, grid_rule, frame_fitting, max_prompt_tokens,
                encoding, pool_stride, video_fitting: those of the checkpoint (`LongVAConfig`,
                `FrameEncoder`), see `processor_for`.
        """
        self.image_token_id, self.video_token_id = placeholder_ids(tokenizer)
        self.grid_size = grid_size
        self.tokens_per_grid = tokens_per_grid
        self.max_grids = max_grids
        self.grid_rule = grid_rule
        self.frame_fitting = frame_fitting
        self.max_prompt_tokens = max_prompt_tokens
        self.encoding = encoding
        self.pool_stride = pool_stride
        self.video_fitting = video_fitting
        super().__init__(tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        sanitize_control_tokens: bool = False,
        return_tensors: str = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """
        Args:
            images: PIL images in the order of the `<image>` placeholders (one, a list, or a list
                for each text).
            text: one prompt or several; special tokens in it are special tokens. Several are padded
                on the left.
            videos: arrays of frames F Y X C uint8 in the order of the `<video>` placeholders,
                likewise.
            sanitize_control_tokens: set by `apply_chat_template`.
            return_tensors: "pt", the only kind made here.
            kwargs: none is accepted. Transformers' own, such as `padding` and `truncation`, are an
                error: a prompt that is cut loses its question.

        Raises:
            ValueError: no text, items and placeholders that do not match, a prompt beyond
                `max_prompt_tokens`.
        """
        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        if kwargs or return_tensors != "pt":
            got = ", ".join([*kwargs, f"return_tensors={return_tensors!r}"])
            raise ValueError(f"want only images, text, videos and return_tensors='pt', got {got}")
        if text is None:
            raise ValueError("want text with one <image>/<video> placeholder an item, got none")
        grids = self._grids()
        image_cuts = [grids.image(image) for image in _flat(images, Image.Image)]
        video_cuts = [
            grids.pooled(self._fit_frames(frames)) for frames in _flat(videos, (np.ndarray, Tensor))
        ]
        texts = [text] if isinstance(text, str) else list(text)
        rows = [
            self._tokenize(prompt, sanitize_control_tokens=sanitize_control_tokens)
            for prompt in texts
        ]
        data = self._pad(self._expand(rows, image_cuts, video_cuts))
        if image_cuts:
            data["pixel_values"] = _pixels(image_cuts)
            sources = join_sources(
                [cut.source_S2 for cut in image_cuts], [len(cut.grids_GYXC) for cut in image_cuts]
            )
            data["image_sources"] = torch.from_numpy(sources)
        if video_cuts:
            data["pixel_values_videos"] = _pixels(video_cuts)
        return BatchFeature(data)

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but special tokens typed in a message are plain text."""
        kwargs.setdefault("sanitize_control_tokens", kwargs.get("tokenize", False))
        return super().apply_chat_template(conversation, *args, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        pixels = ["pixel_values", "image_sources", "pixel_values_videos"]
        return ["input_ids", "attention_mask", *pixels]

    def _grids(self) -> GridSettings:
        return GridSettings(
            grid_size=self.grid_size,
            tokens_per_grid=self.tokens_per_grid,
            max_grids=self.max_grids,
            grid_rule=self.grid_rule,
            frame_fitting=self.frame_fitting,
            encoding=self.encoding,
            pool_stride=self.pool_stride,
        )

    def _fit_frames(self, frames: NDArray[np.uint8] | Tensor) -> NDArray[np.uint8]:
        """Frames of any size to frames_FYXC of the grid's: each frame is an image of one grid."""
        frames_FYXC = np.asarray(frames)
        if frames_FYXC.ndim != 4 or frames_FYXC.shape[-1] != 3 or frames_FYXC.dtype != np.uint8:
            raise ValueError(
                f"a video has shape {frames_FYXC.shape} and dtype {frames_FYXC.dtype}, want frames "
                "F Y X 3 of uint8"
            )
        if frames_FYXC.shape[1:3] == (self.grid_size, self.grid_size):
            return frames_FYXC
        fitted = [
            whole_image(
                Image.fromarray(frame_YXC),
                fitting=self.video_fitting or self.frame_fitting,
                grid_size=self.grid_size,
                resize="pillow",
            )
            for frame_YXC in frames_FYXC
        ]
        return np.concatenate(fitted)

    def _tokenize(self, prompt: str, *, sanitize_control_tokens: bool) -> list[int]:
        return self.tokenizer(
            prompt, add_special_tokens=False, sanitize_control_tokens=sanitize_control_tokens
        )["input_ids"]

    def _expand(
        self,
        rows: Sequence[Sequence[int]],
        images: Sequence[Cut],
        videos: Sequence[Cut],
    ) -> list[Tensor]:
        """Each row with its placeholders repeated for the tokens of their images and videos."""
        tokens = {
            self.image_token_id: [len(cut.source_S2) for cut in images],
            self.video_token_id: [len(cut.source_S2) for cut in videos],
        }
        for (token_id, counts), kind in zip(tokens.items(), ("image", "video"), strict=True):
            wanted = sum(list(row).count(token_id) for row in rows)
            if wanted != len(counts):
                raise ValueError(
                    f"the text has {wanted} <{kind}> placeholder(s) but {len(counts)} {kind}(s) "
                    "were given; want one for each"
                )
        queues = {token_id: iter(counts) for token_id, counts in tokens.items()}
        expanded = []
        for row in rows:
            counts = [next(queues[i]) for i in row if i in queues]
            ids_T = expand_placeholders(row, counts, placeholder_ids=list(queues))
            check_prompt_length(len(ids_T), self.max_prompt_tokens)
            expanded.append(ids_T)
        return expanded

    def _pad(self, rows: Sequence[Tensor]) -> dict[str, Tensor]:
        """Rows of different lengths to input_ids_BT, padded on the left as generation wants it."""
        longest = max(len(ids_T) for ids_T in rows)
        if any(len(ids_T) < longest for ids_T in rows) and self.tokenizer.pad_token_id is None:
            raise ValueError("prompts of different lengths need a tokenizer with a pad_token")
        input_ids_BT = torch.full((len(rows), longest), self.tokenizer.pad_token_id or 0)
        attention_mask_BT = torch.zeros_like(input_ids_BT)
        for row, ids_T in enumerate(rows):
            input_ids_BT[row, longest - len(ids_T) :] = ids_T
            attention_mask_BT[row, longest - len(ids_T) :] = 1
        return {"input_ids": input_ids_BT, "attention_mask": attention_mask_BT}


def processor_for(
    config: LongVAConfig, tokenizer: PreTrainedTokenizerBase, *, tokens_per_grid: int
) -> LongVAProcessor:
    """The processor of a checkpoint."""
    return LongVAProcessor(
        tokenizer=tokenizer,
        grid_size=config.grid_size,
        tokens_per_grid=tokens_per_grid,
        max_grids=config.max_grids,
        grid_rule=config.grid_rule,
        frame_fitting=config.frame_fitting,
        max_prompt_tokens=config.max_prompt_tokens,
        encoding=config.encoding,
        pool_stride=config.pool_stride,
        video_fitting=config.video_fitting,
    )


def _pixels(cuts: Sequence[Cut]) -> Tensor:
    return torch.from_numpy(np.concatenate([cut.grids_GYXC for cut in cuts]))


def _flat(items: Any, kind: type | tuple[type, ...]) -> list[Any]:
    """One item, a list, or (from chat templates) a list of lists of items -> a flat list."""
    if items is None:
        return []
    if isinstance(items, kind):
        return [items]
    if not isinstance(items, list | tuple):
        raise ValueError(
            f"got an item of type {type(items).__name__}, want {kind} or a list of them"
        )
    return [item for entry in items for item in _flat(entry, kind)]
