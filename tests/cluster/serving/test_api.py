"""What the messages of clients may hold: what means nothing passes, what means something that is
not done here is refused by its name."""

from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessage
from pydantic import ValidationError

from longva_ray.serving.api import ChatRequest
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
