"""The HTTP messages: OpenAI's chat completions with `image_url` and `video_url` parts, plus scoring
and the list of encoded videos.

Unknown fields are refused by name, never ignored. Neutral values are accepted, because OpenAI
clients send them for much that they do not want: null for any field, and the values at the end of
`ChatRequest`. The field names follow https://platform.openai.com/docs/api-reference/chat.
`media_io_kwargs` is how vLLM and lmms-eval ask for a number of frames.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from longva_ray.answer.generate import FinishReason
from longva_ray.lm.prompt import check_unicode
from longva_ray.settings.answering import GenerationSettings


class ApiError(HTTPException):
    """An answer other than 200, in OpenAI's error shape."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(status, message)
        self.code = code
        self.body = {"error": {"message": message, "type": "invalid_request_error", "code": code}}


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        return {name: value for name, value in fields.items() if value is not None}


class TextPart(_Request):
    type: Literal["text"]
    text: str


class VideoUrl(_Request):
    url: str
    """`file:///absolute/path.mp4` below an allowed root, or the id of an encoded video."""


class VideoPart(_Request):
    type: Literal["video_url"]
    video_url: VideoUrl


class ImageUrl(_Request):
    url: str
    """`data:image/...;base64,...`, or `file:///absolute/path.png` below an allowed root."""
    detail: Literal["auto", "high"] = "auto"
    """Both mean the one encoding that the model was trained with. A low one is not made here."""


class ImagePart(_Request):
    type: Literal["image_url"]
    image_url: ImageUrl


class ChatMessage(_Request):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]]
    name: str | None = None
    """Tells participants of one role apart. Accepted, but the prompt has no place for it."""

    @field_validator("role")
    @classmethod
    def _newer_name(cls, role: str) -> str:
        return "system" if role == "developer" else role


class VideoIo(_Request):
    num_frames: int = Field(ge=1)


class MediaIo(_Request):
    video: VideoIo


class StreamOptions(_Request):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class TextFormat(_Request):
    type: Literal["text"]


class Conversation(_Request):
    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    media_io_kwargs: MediaIo | None = None
    """At most this many frames of each video, spread evenly over the encoded ones."""
    images_as_video: bool = False
    """All images of one message are the frames of one video, which stands where the first of them
    does: for clients that decode videos themselves."""

    @model_validator(mode="before")
    @classmethod
    def _is_unicode(cls, fields: Any) -> Any:
        """Names, texts and URLs alike: any of them may end up in a prompt, a path or a message."""
        _check_texts(fields, "the request")
        return fields

    @property
    def num_frames(self) -> int | None:
        return self.media_io_kwargs.video.num_frames if self.media_io_kwargs else None


def _check_texts(value: Any, what: str) -> None:
    """Raise ValueError for any text in a JSON value that is not Unicode, naming where it stands."""
    if isinstance(value, str):
        check_unicode(value, what)
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            _check_texts(entry, f"{what}[{number}]")
    elif isinstance(value, dict):
        for name, entry in value.items():
            check_unicode(name, f"a name in {what}")
            _check_texts(entry, name if what == "the request" else f"{what}.{name}")


StopText = Annotated[str, Field(max_length=256)]
"""Short, because the answer is searched for it after every token."""


class ChatRequest(Conversation):
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    """At most four, as in OpenAI's API."""
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    # What this server does not do. The one value that is accepted does not ask for it.
    n: Literal[1] = 1
    frequency_penalty: Literal[0] = 0
    presence_penalty: Literal[0] = 0
    logit_bias: dict[str, float] = Field(default={}, max_length=0)
    logprobs: Literal[False] = False
    top_logprobs: Literal[0] = 0
    response_format: TextFormat | None = None
    store: Literal[False] = False
    tools: list[Any] = Field(default=[], max_length=0)
    tool_choice: Literal["none", "auto"] = "none"

    @property
    def answer_tokens(self) -> int | None:
        """Tokens that the answer may have. The newer name of the field wins over the older one."""
        return self.max_completion_tokens or self.max_tokens

    def settings(self) -> GenerationSettings:
        """Sampling settings of this request."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return GenerationSettings(
            max_new_tokens=self.answer_tokens or GenerationSettings().max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=tuple(text for text in stop if text),
            seed=self.seed,
        )


class ScoreRequest(Conversation):
    answers: list[str] = Field(min_length=1)
    """The answer to judge, or the options of a multiple choice."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FramesRead:
    """How much of one video a question has read."""

    frames_read: int
    frames_available: int
    """Frames that the store has of it."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImageRead:
    """How much of the prompt is one image."""

    tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PromptUsage:
    """What a prompt was made of."""

    prompt_tokens: int
    cached_tokens: int
    """Those of them that an earlier question about the same had left."""
    videos: Sequence[FramesRead]
    """In the order in which the messages name them, like the images."""
    images: Sequence[ImageRead] = ()


def usage(prompt: PromptUsage, completion_tokens: int) -> dict[str, Any]:
    """OpenAI's token counts, and what was read of each video and image, in fields of our own, which
    its clients skip."""
    return {
        "prompt_tokens": prompt.prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt.prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": prompt.cached_tokens},
        "videos": [dataclasses.asdict(video) for video in prompt.videos],
        "images": [dataclasses.asdict(image) for image in prompt.images],
    }


class CompletionBody:
    """Builds the bodies of one chat completion, whole or in chunks, under one id."""

    def __init__(self, model: str, request_id: str) -> None:
        self._common = {
            "id": f"chatcmpl-{request_id}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, text: str, reason: FinishReason | None, used: dict[str, Any]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": reason}
        return self._common | {"object": "chat.completion", "choices": [choice], "usage": used}

    def chunk(self, delta: dict[str, str], reason: FinishReason | None = None) -> dict[str, Any]:
        """One event of a streamed answer."""
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return self._common | {"object": "chat.completion.chunk", "choices": [choice]}

    def final_usage(self, used: dict[str, Any]) -> dict[str, Any]:
        """The event after the last piece, when the client asked for the token counts."""
        return self._common | {"object": "chat.completion.chunk", "choices": [], "usage": used}
