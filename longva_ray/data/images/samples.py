"""A conversation about images -> token ids, which of them are answers, and the images' grids.

    ChatSample -> input_ids_T, is_label_T, grids_GYXC, source_S2

The prompt comes from the one chat template. So what stands before an answer is, token for token,
what the model is given when it is asked (`lm.prompt.build_prompt`). That holds for captions too;
the released scripts train stage 1 on image and caption without any turns. The labels are the tokens
of answers and the token that ends each, and nothing else: not the header of the turn, and not the
newline after it (the released code trains the control tokens of every role). Images are cut as the
checkpoint's encoding says; a video becomes one grid a frame. Both become visual tokens later, with
one placeholder id and one source for each.

What it does not do: shift labels (`ring.layout.next_token_labels`), encode grids.
Shapes: T tokens of a sample, S visual tokens, 2 the grid of one and its number there, G grids, F
frames, Y/X/C pixel axes.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from transformers import PreTrainedTokenizerBase

from longva_ray.data.images.chat import (
    ChatSample,
    Item,
    RawSample,
    SampleError,
    parse_sample,
    reason_of,
)
from longva_ray.files.places import local_file
from longva_ray.lm.prompt import (
    CHAT_TEMPLATE,
    TURN_END,
    TURN_START,
    Message,
    expand_placeholders,
    placeholder_ids,
)
from longva_ray.video.container import VideoError
from longva_ray.video.decode import decode_frames
from longva_ray.video.fitting import Fitting
from longva_ray.video.probe import probe_video
from longva_ray.video.sampling import Sampling
from longva_ray.vision.encoding import Cut, GridSettings, join_sources

_DECODE_CHUNK = 16


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EncodedSample:
    """What a sample is to the trainer."""

    sample_id: str
    input_ids_T: npt.NDArray[np.int32]
    """Every placeholder repeated for its visual tokens."""
    is_label_T: npt.NDArray[np.bool_]
    """Tokens that the model learns to produce."""
    grids_GYXC: npt.NDArray[np.uint8]
    """Of all images and videos, in the order of their placeholders."""
    source_S2: npt.NDArray[np.int32]
    """What stands at each placeholder, of these grids (`encoding.Cut`)."""


class SampleEncoder:
    """Worker: encodes samples for one checkpoint."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        settings: GridSettings,
        *,
        sampling: str,
        video_fitting: Fitting,
        max_tokens: int,
    ) -> None:
        """
        Args:
            tokenizer: with `<image>`, `<video>` and ChatML's tokens.
            sampling: which frames of a video are taken (`video.sampling`).
            video_fitting: how they are put on a grid.
            max_tokens: longest sample.
        """
        self._tokenizer = tokenizer
        self._settings = settings
        self._sampling = Sampling.parse(sampling)
        self._video_fitting = video_fitting
        self._max_tokens = max_tokens

    def encode(self, raw: RawSample) -> EncodedSample:
        """A sample as its file has it. Raises SampleError for one that cannot be used."""
        return self(parse_sample(raw))

    def __call__(self, sample: ChatSample) -> EncodedSample:
        """Raises SampleError for an image or video that cannot be read, or a sample too long."""
        size = self._settings.grid_size
        cuts = [self._cut(item) for item in sample.items]
        counts = [len(cut.source_S2) for cut in cuts]
        grids = [cut.grids_GYXC for cut in cuts]
        input_ids_T, is_label_T = conversation_tokens(self._tokenizer, sample.messages, counts)
        self._check_length(len(input_ids_T))
        return EncodedSample(
            sample_id=sample.sample_id,
            input_ids_T=input_ids_T,
            is_label_T=is_label_T,
            grids_GYXC=np.concatenate([np.zeros((0, size, size, 3), np.uint8), *grids]),
            source_S2=join_sources([cut.source_S2 for cut in cuts], [len(each) for each in grids]),
        )

    def _cut(self, item: Item) -> Cut:
        name = f"{item.kind} {item.place}"
        try:
            with local_file(item.place) as path:
                return self._video(path) if item.kind == "video" else self._image(path)
        except FileNotFoundError as error:
            raise SampleError(f"{name} does not exist") from error
        except VideoError as error:
            raise SampleError(f"{name}: {error.reason}") from error
        except SampleError:
            raise
        except Exception as error:  # decoders raise errors of any kind for damaged files
            raise SampleError(f"{name} cannot be read: {reason_of(error)}") from error

    def _image(self, path: Path) -> Cut:
        with Image.open(path) as image:
            return self._settings.image(image)

    def _video(self, path: Path) -> Cut:
        info = probe_video(path)
        frame_index_F = info.sampled(self._sampling)
        self._check_length(len(frame_index_F) * self._settings.tokens_per_grid)
        chunks = decode_frames(
            info,
            frame_index_F,
            size=self._settings.grid_size,
            fitting=self._video_fitting,
            chunk_frames=_DECODE_CHUNK,
        )
        return self._settings.pooled(np.concatenate([chunk.frames_FYXC for chunk in chunks]))

    def _check_length(self, num_tokens: int) -> None:
        if num_tokens > self._max_tokens:
            raise SampleError(f"{num_tokens} tokens are more than a row holds ({self._max_tokens})")


def conversation_tokens(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    item_token_counts: Sequence[int],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Token ids of a whole conversation, and which of them are answers: both (T,).

    Args:
        item_token_counts: visual tokens of each image or video, in order.

    Raises ValueError as `answer_mask` does.
    """
    text_ids: Any = tokenizer.apply_chat_template(
        [dict(message) for message in messages],
        chat_template=CHAT_TEMPLATE,
        sanitize_control_tokens=True,
        return_dict=False,
    )
    ids = expand_placeholders(
        text_ids, item_token_counts, placeholder_ids=placeholder_ids(tokenizer)
    )
    input_ids_T = ids.numpy().astype(np.int32)
    roles = [message["role"] for message in messages]
    return input_ids_T, answer_mask(input_ids_T, roles, tokenizer)


def answer_mask(
    input_ids_T: npt.NDArray[np.int32], roles: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> npt.NDArray[np.bool_]:
    """True at the tokens of every answer and at the token that ends it: (T,).

    Turns are found by the control tokens, which only the template can have written. Raises
    ValueError for a tokenizer that does not keep the header of a turn apart from its text.
    """
    known = tokenizer.get_added_vocab()
    starts = np.flatnonzero(input_ids_T == known[TURN_START])
    stops = np.flatnonzero(input_ids_T == known[TURN_END])
    header = tokenizer.encode("assistant\n", add_special_tokens=False)
    said = list(roles) if roles[0] == "system" else ["system", *roles]
    assert len(starts) == len(stops) == len(said), "the template writes one of each for every turn"
    mask_T = np.zeros(len(input_ids_T), dtype=np.bool_)
    for start, stop, role in zip(starts.tolist(), stops.tolist(), said, strict=True):
        if role != "assistant":
            continue
        first = start + 1 + len(header)
        if input_ids_T[start + 1 : first].tolist() != header:
            raise ValueError(
                "this tokenizer joins the header of a turn with its text, so that no token begins "
                "where an answer does; want a ChatML tokenizer (Qwen2, SmolLM2)"
            )
        mask_T[first : stop + 1] = True
    return mask_T
