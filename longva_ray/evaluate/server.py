"""A running server of this package, asked over HTTP: what model it has, scores, and answers.

    GET /v1/models  POST /v1/score  POST /v1/chat/completions

A server that is busy, restarts or cannot be reached is asked again for some minutes. What it
refuses, such as a video that it may not read, is an error of that question; anything else ends the
run. The key is that of `$LONGVA_API_KEY`.
"""

import dataclasses
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

BUSY = (
    *(HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY),
    *(HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT),
)
"""Said by a server, or by a proxy before it, that may well answer later."""

REFUSED = (
    *(HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN),
    *(HTTPStatus.NOT_FOUND, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
)
"""Said of one question: what it is about, or its length."""

PATIENCE_S = 300.0
"""How long a server may be busy or away: longer than a replica takes to load again."""

_CONNECT_S = 10.0

_LONGEST_PAUSE_S = 20.0


class RefusedQuestion(ValueError):
    """What the server will not answer, and why."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """The model of a server: what decides its answers."""

    id: str
    fingerprint: str
    """Of the checkpoint."""
    encoder_fingerprint: str
    encoding: str
    """Key of the shards that it reads."""
    dtype: str
    prefill_chunk: int


class Server:
    """One server; threads may share it. Use it as a context manager."""

    def __init__(self, url: str, *, patience_s: float = PATIENCE_S) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        key = os.environ.get("LONGVA_API_KEY")
        self._client = httpx.Client(
            base_url=self._url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            # A long video that is encoded on the way takes as long as it takes.
            timeout=httpx.Timeout(None, connect=_CONNECT_S),
        )
        self._patience_s = patience_s
        self._stopping = threading.Event()

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        self._client.close()

    def stop(self) -> None:
        """Let no thread wait any longer for a server that is busy."""
        self._stopping.set()

    def model(self) -> ServedModel:
        """What is served. Raises ValueError when no server of this package answers."""
        try:
            listed = self._checked(self._client.get("/v1/models"))
            name = quote(listed["data"][0]["id"], safe="")
            described = self._checked(self._client.get(f"/v1/models/{name}"))
            return ServedModel(**{each.name: described[each.name] for each in _FIELDS})
        except httpx.TransportError as error:
            raise ValueError(
                f"no server answers at {self._url} ({error}); start one with `longva serve`"
            ) from error
        except (RefusedQuestion, LookupError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"what answers at {self._url} is no server of this package, or an older one; "
                "start one with `longva serve`"
            ) from error

    def score(
        self, model: str, messages: Sequence[Any], frames: int | None, answers: Sequence[str]
    ) -> Mapping[str, Any]:
        """`scores` of the answers, and the place of the `best`."""
        return self._post(
            "/v1/score", _conversation(model, messages, frames) | {"answers": list(answers)}
        )

    def answer(
        self, model: str, messages: Sequence[Any], frames: int | None, max_new_tokens: int
    ) -> str:
        """The model's own answer, without sampling."""
        body = _conversation(model, messages, frames) | {"max_tokens": max_new_tokens}
        text: str = self._post("/v1/chat/completions", body)["choices"][0]["message"]["content"]
        return text

    def _post(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Raises RefusedQuestion, or ValueError when the server fails or stays away."""
        until, pause = time.monotonic() + self._patience_s, 0.5
        while True:
            try:
                response = self._client.post(path, json=body)
                if response.status_code not in BUSY:
                    break
                trouble = _said(response)
            except httpx.TransportError as error:
                trouble = repr(error)
            if time.monotonic() + pause > until or self._stopping.wait(pause):
                raise ValueError(
                    f"{self._url} did not answer for {self._patience_s:g} s: {trouble}; start this "
                    "again when it does, and it goes on"
                )
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        return self._checked(response)

    def _checked(self, response: httpx.Response) -> Mapping[str, Any]:
        """The JSON of a good answer."""
        if response.status_code in REFUSED:
            raise RefusedQuestion(_said(response))
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            raise ValueError(
                f"{self._url} wants a key: set $LONGVA_API_KEY to the one that it was started with"
            )
        if not response.is_success:
            raise ValueError(f"{self._url} answers {response.status_code}: {_said(response)}")
        values: Mapping[str, Any] = response.json()
        return values


_FIELDS = dataclasses.fields(ServedModel)


def _conversation(model: str, messages: Sequence[Any], frames: int | None) -> dict[str, Any]:
    wanted = {} if frames is None else {"media_io_kwargs": {"video": {"num_frames": frames}}}
    return {"model": model, "messages": list(messages)} | wanted


def _said(response: httpx.Response) -> str:
    """The message of an error in OpenAI's shape, or the beginning of whatever was answered."""
    try:
        return str(response.json()["error"]["message"])
    except (KeyError, TypeError, ValueError):
        return f"{response.status_code} {response.text[:300]}".strip()
