"""What the messages of clients may hold: what means nothing passes, what means something that is
not done here is refused by its name."""

import json
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from openai.types.chat import ChatCompletionMessage
from pydantic import ValidationError

from longva_ray.serving.api import ChatRequest, ScoreRequest
from longva_ray.serving.refusals import REFUSALS
from longva_ray.settings.answering import GenerationSettings

PLAIN: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    "fields",
    [
        dict.fromkeys(
            [
                *("temperature", "top_p", "n", "stop", "seed", "max_tokens", "stream", "user"),
                *("frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "store"),
                *("response_format", "tools", "tool_choice", "stream_options", "metadata"),
            ]
        ),
        {"frequency_penalty": 0.0, "presence_penalty": 0, "logit_bias": {}, "n": 1},
        {"logprobs": False, "top_logprobs": 0, "store": False},
        {"tools": [], "tool_choice": "none"},
        {"response_format": {"type": "text"}},
        {"stream": True, "stream_options": {"include_usage": None, "include_obfuscation": False}},
    ],
)
def test_neutral_values_change_nothing(fields: dict[str, object]) -> None:
    assert ChatRequest.model_validate(PLAIN | fields).settings() == GenerationSettings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logprobs", True),
        ("top_logprobs", 3),
        ("frequency_penalty", 0.5),
        ("logit_bias", {"50256": -100}),
        ("response_format", {"type": "json_object"}),
        ("store", True),
        ("tools", [{"type": "function", "function": {"name": "look"}}]),
        ("tool_choice", "required"),
        ("stream_options", {"include_obfuscation": True}),
        ("stop", ["a", "b", "c", "d", "e"]),
        ("stop", "x" * 257),
        ("seed", 10**30),
        ("temperature", float("nan")),
    ],
)
def test_what_is_not_done_here_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        ChatRequest.model_validate(PLAIN | {name: value})


@pytest.fixture(scope="module")
def echo() -> TestClient:
    """The server's messages and its answers to mistakes, without a model behind them."""
    app = FastAPI(exception_handlers=REFUSALS)

    @app.post("/v1/chat/completions")
    def chat(request: ChatRequest) -> str:
        return request.model_dump_json()

    @app.post("/v1/score")
    def score(request: ScoreRequest) -> str:
        return request.model_dump_json()

    @app.get("/broken")
    def broken() -> str:
        raise FloatingPointError("logits are nan")

    return TestClient(app)


HALF = "a \ud83d b"


JSON = {"content-type": "application/json"}


def asked(content: object) -> list[object]:
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/score"])
@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"messages": asked(HALF)}, "messages[0].content"),
        ({"messages": asked([{"type": "text", "text": HALF}])}, "messages[0].content[0].text"),
        (
            {"messages": asked([{"type": "video_url", "video_url": {"url": HALF}}])},
            "messages[0].content[0].video_url.url",
        ),
        ({"model": HALF}, "model"),
        ({"user": HALF}, "user"),
        ({"stop": ["a", HALF]}, "stop[1]"),
        ({"answers": ["a", HALF]}, "answers[1]"),
        ({HALF: 1}, "a name in the request"),
        ({"messages": [{"role": HALF, "content": "a"}]}, "messages[0].role"),
    ],
)
def test_half_a_surrogate_pair_is_400(
    echo: TestClient, path: str, fields: dict[str, object], where: str
) -> None:
    body = json.dumps(PLAIN | {"answers": ["a"]} | fields)
    answer = echo.post(path, content=body, headers=JSON)
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert f"{where} is not Unicode: character 2 is '\\ud83d', half of a surrogate pair" in message


def test_whole_characters_pass(echo: TestClient) -> None:
    fields = PLAIN | {"messages": asked("\U0001f600 \u00e9 \x00")}
    answer = echo.post("/v1/chat/completions", content=json.dumps(fields), headers=JSON)
    assert answer.status_code == 200
    assert json.loads(answer.json())["messages"][0]["content"] == "\U0001f600 \u00e9 \x00"


def test_broken_weights_are_named(echo: TestClient) -> None:
    answer = echo.get("/broken")
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "logits are nan"


def test_four_stop_strings_pass() -> None:
    request = ChatRequest.model_validate(PLAIN | {"stop": ["a", "b", "c", "d"]})
    assert request.settings().stop == ("a", "b", "c", "d")


def test_messages_of_openai_clients() -> None:
    """The newer name of the system role, a participant's name, and an answer that is sent back as
    the official client gives it."""
    said = ChatCompletionMessage(role="assistant", content="a star").model_dump()
    assert said["refusal"] is None
    messages = [
        {"role": "developer", "content": "be short"},
        {"role": "user", "name": "ann", "content": "what is there?"},
        said,
        {"role": "user", "content": [{"type": "text", "text": "and then?"}]},
    ]
    request = ChatRequest.model_validate(PLAIN | {"messages": messages})
    assert [message.role for message in request.messages] == [
        *("system", "user", "assistant", "user")
    ]


@pytest.mark.parametrize("message", [{"refusal": "no"}, {"tool_calls": [{}]}, {"content": None}])
def test_messages_that_mean_something_else_are_refused(message: dict[str, object]) -> None:
    (name,) = message
    with pytest.raises(ValidationError, match=name):
        ChatRequest.model_validate(
            PLAIN | {"messages": [{"role": "assistant", "content": "hi"} | message]}
        )
