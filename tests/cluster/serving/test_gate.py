"""The gate in front of a real FastAPI application, called as a server calls it: without a network,
so that it is seen what was read."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType

import httpx
import pytest
from fastapi import FastAPI

from longva_ray.serving.api import ScoreRequest
from longva_ray.serving.gate import Gate
from longva_ray.serving.refusals import REFUSALS

MAX_BODY_BYTES = 2**20


KEY = "schl\u00fcssel"


BODY = b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "answers": ["ho"]}'


def application(key: str | None) -> FastAPI:
    app = FastAPI(exception_handlers=REFUSALS)
    app.add_middleware(Gate, key=lambda: key, max_bytes=lambda: MAX_BODY_BYTES)

    @app.get("/health")
    async def health() -> str:
        return "ok"

    @app.post("/v1/score")
    async def score(request: ScoreRequest) -> str:
        return request.answers[0]

    return app


async def pieces(num_bytes: int, given: list[int]) -> AsyncIterator[bytes]:
    """A body of valid JSON in pieces, without a length; `given` counts what was taken of it."""
    for start in range(0, num_bytes, 2**16):
        piece = b" " * min(2**16, num_bytes - start)
        given.append(len(piece))
        yield piece
    yield BODY


def ask(
    app: FastAPI,
    path: str = "/v1/score",
    key: str | None = None,
    body: bytes | AsyncIterator[bytes] | None = BODY,
    scheme: str = "Bearer",
    more: Mapping[str, str] = MappingProxyType({}),
) -> httpx.Response:
    headers = {"Content-Type": "application/json", **more}
    if key is not None:
        headers["Authorization"] = f"{scheme} {key}"

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.request(
                "GET" if body is None else "POST",
                path,
                content=body,
                headers={name: value.encode() for name, value in headers.items()},
            )

    return asyncio.run(send())


@pytest.mark.parametrize("key", [None, "", "wrong", KEY + "x"])
def test_without_the_key_no_byte_of_a_body_is_read(key: str | None) -> None:
    given: list[int] = []
    response = ask(application(KEY), key=key, body=pieces(2**20, given))
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert not given


def test_who_may_enter() -> None:
    assert ask(application(KEY), key=KEY).json() == "ho"
    assert ask(application(None)).json() == "ho"
    assert ask(application(KEY), path="/health", body=None).json() == "ok"
    assert ask(application(KEY), path="/v1/nothing", body=None).status_code == 401
    assert ask(application(KEY), key=KEY, scheme="Basic").status_code == 401


@pytest.mark.parametrize("name", ["X-Request-Disconnect-Disabled", "x-request-timeout-seconds"])
def test_headers_that_command_rays_proxy_are_refused(name: str) -> None:
    given: list[int] = []
    response = ask(application(KEY), key=KEY, body=pieces(2**20, given), more={name: "?1"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "unsupported_header"
    assert name.lower() in response.json()["error"]["message"]
    assert not given


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "message"),
    [
        ("/v1/nothing", BODY, 404, "not_found", "POST /v1/nothing: Not Found"),
        ("/v1/score", None, 405, "method_not_allowed", "GET /v1/score: Method Not Allowed"),
        ("/v1/score", b'{"model": ', 400, "malformed_request", "JSON"),
        ("/v1/score", b"[1]", 400, "malformed_request", "dictionary"),
    ],
)
def test_every_mistake_has_openais_shape(
    path: str, body: bytes | None, status: int, code: str, message: str
) -> None:
    response = ask(application(None), path=path, body=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert message in error["message"]
    assert (response.headers.get("allow") == "POST") == (status == 405)


def test_a_body_in_pieces_ends_at_the_limit() -> None:
    given: list[int] = []
    response = ask(application(KEY), key=KEY, body=pieces(3 * MAX_BODY_BYTES, given))
    assert response.status_code == 413
    assert str(MAX_BODY_BYTES) in response.json()["error"]["message"]
    assert sum(given) <= MAX_BODY_BYTES + 2**16


def test_a_body_at_the_limit_is_read() -> None:
    spaces = b" " * (MAX_BODY_BYTES - len(BODY))
    assert ask(application(KEY), key=KEY, body=spaces + BODY).json() == "ho"
    assert ask(application(KEY), key=KEY, body=spaces + b" " + BODY).status_code == 413
