"""What the log of a server says of a request: a FastAPI application with the server's middleware
and its answers to mistakes, called without a network and without a model."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse

from longva_ray.serving.api import ChatRequest, FramesRead, ImageRead, PromptUsage
from longva_ray.serving.gate import Gate
from longva_ray.serving.refusals import REFUSALS
from longva_ray.serving.request_log import Asked, RequestLog, asked_of

READ = PromptUsage(
    prompt_tokens=66,
    cached_tokens=60,
    videos=[
        FramesRead(frames_read=16, frames_available=120),
        FramesRead(frames_read=3, frames_available=3),
    ],
    images=[ImageRead(tokens=288), ImageRead(tokens=8)],
)


SECRET = "what does the letter say?"


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI(exception_handlers=REFUSALS)
    app.add_middleware(Gate, key=lambda: "key", max_bytes=lambda: 2**20)
    app.add_middleware(RequestLog)

    @app.get("/health")
    async def health() -> str:
        return "ok"

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(
        request: ChatRequest, asked: Annotated[Asked, Depends(asked_of)]
    ) -> str | StreamingResponse:
        asked.prompt, asked.answer_tokens, asked.outcome = READ, 12, "stop"
        if request.model == "broken":
            raise FloatingPointError("logits are nan")
        if request.model == "slow":
            await asyncio.sleep(60)
        return StreamingResponse(_late(asked)) if request.stream else asked.id

    return app


async def _late(asked: Asked) -> AsyncIterator[str]:
    yield asked.id
    asked.answer_tokens = 13


def ask(app: FastAPI, *, patience_s: float = 30.0, key: str = "key", **fields: object) -> str:
    async def send() -> str:
        transport = httpx.ASGITransport(app)
        body = {"model": "tiny", "messages": [{"role": "user", "content": SECRET}]} | fields
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            answer = await asyncio.wait_for(
                client.post(
                    "/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}
                ),
                patience_s,
            )
            assert (await client.get("/health")).status_code == 200
            return answer.text.strip('"')

    return asyncio.run(send())


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """The one line."""
    (record,) = [record for record in caplog.records if record.name.startswith("ray.serve")]
    assert SECRET not in caplog.text
    return record.getMessage()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "frames=16/120,3/3 images=288,8 tokens=66+12 cached=60 outcome=200 stop"),
        (
            {"stream": True},
            "frames=16/120,3/3 images=288,8 tokens=66+13 cached=60 outcome=200 stop",
        ),
        (
            {"model": "broken"},
            "frames=16/120,3/3 images=288,8 tokens=66+12 cached=60 outcome=500 broken_weights",
        ),
        ({"temperature": 9}, "frames=- images=- tokens=0+0 cached=0 outcome=400 malformed_request"),
        ({"key": "wrong"}, "frames=- images=- tokens=0+0 cached=0 outcome=401"),
    ],
)
def test_one_line_a_request(
    app: FastAPI, caplog: pytest.LogCaptureFixture, fields: dict[str, object], said: str
) -> None:
    caplog.set_level(logging.INFO)
    answer = ask(app, **fields)  # type: ignore[arg-type]
    line = logged(caplog)
    assert re.sub(r"id=\w{32} path=/v1/chat/completions|seconds=\d+\.\d\d ", "", line)[1:] == said
    if said.endswith("stop"):
        assert f"id={answer} " in line


def test_a_client_that_leaves_is_logged(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(TimeoutError):
        ask(app, patience_s=0.2, model="slow")
    assert logged(caplog).endswith("outcome=no answer client left")


def test_a_path_stays_on_its_line(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def send() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            await client.get("/v1/%0Aid=0 path=/v1/score outcome=200")

    asyncio.run(send())
    assert " path=/v1/%0Aid%3D0%20path%3D/v1/score%20outcome%3D200 " in logged(caplog)
