"""One line in the log for each request to the API: its numbers, never its text.

    id=7f3a.. path=/v1/score frames=16/120 images=288 tokens=354+0 seconds=1.24 outcome=200

`frames` is read/available for each video, `images` the tokens of each image, `tokens`
prompt+answer. The outcome is the HTTP status and why the answer ended, which error it is, or that
the client left. The id is part of the id of the answer. Ray Serve's own logger takes the lines, so
they lie where its logs do and follow its level. A path is escaped, so that it stays on its line.
What it does not log: health checks and the API's description.
"""

import asyncio
import logging
import time
import uuid
from dataclasses import dataclass, field
from urllib.parse import quote

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from longva_ray.serving.api import PromptUsage

logger = logging.getLogger("ray.serve.requests")

_IN_SCOPE = "longva_ray.asked"


@dataclass(kw_only=True, slots=True)
class Asked:
    """What is known of a request so far; whoever works on it fills it in."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    prompt: PromptUsage | None = None
    answer_tokens: int = 0
    outcome: str = ""
    """Besides the status: why the answer ended, or the code of the error."""


def asked_of(request: Request) -> Asked:
    """The record of the request that is worked on."""
    asked: Asked = request.scope.setdefault(_IN_SCOPE, Asked())
    return asked


class RequestLog:
    """ASGI middleware: a line when a request has been answered, refused or given up."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or "/v1/" not in scope["path"]:
            await self._app(scope, receive, send)
            return
        asked = asked_of(Request(scope))
        started = time.perf_counter()
        status = "no answer"

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except asyncio.CancelledError:
            asked.outcome = "client left"
            raise
        except Exception as error:
            asked.outcome = type(error).__name__
            raise
        finally:
            seconds = time.perf_counter() - started
            logger.info(_line(asked, scope["path"], status, seconds))


def _line(asked: Asked, path: str, status: str, seconds: float) -> str:
    prompt = asked.prompt or PromptUsage(prompt_tokens=0, cached_tokens=0, videos=())
    frames = ",".join(f"{each.frames_read}/{each.frames_available}" for each in prompt.videos)
    images = ",".join(str(each.tokens) for each in prompt.images)
    return (
        f"id={asked.id} path={quote(path)} frames={frames or '-'} images={images or '-'} "
        f"tokens={prompt.prompt_tokens}+{asked.answer_tokens} cached={prompt.cached_tokens} "
        f"seconds={seconds:.2f} "
        f"outcome={status} {asked.outcome}".rstrip()
    )
