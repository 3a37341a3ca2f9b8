"""Requests to a running server, and what its model ought to say."""

import json

import httpx
import torch
from repository import PATIENCE_S

from longva_ray.answer.engine import AnswerEngine, Question
from longva_ray.settings.answering import GenerationSettings

KEY = "a key of this test"


QUESTION = "What does the last frame show?"


def about(url: str, question: str = QUESTION) -> list[dict[str, object]]:
    """Messages that ask about a video."""
    return [
        {
            "role": "user",
            "content": [
                {"type": "video_url", "video_url": {"url": url}},
                {"type": "text", "text": question},
            ],
        }
    ]


def said_by(
    engine: AnswerEngine,
    content: list[dict[str, str]],
    items: list[torch.Tensor],
    max_new_tokens: int,
) -> str:
    """What a model says to one message."""
    prompt = engine.read(Question(messages=[{"role": "user", "content": content}], items=items))
    settings = GenerationSettings(max_new_tokens=max_new_tokens)
    return "".join(piece.text for piece in engine.stream(prompt, settings))


def expected_text(engine: AnswerEngine, tokens_FQD: torch.Tensor, max_new_tokens: int) -> str:
    """What a model says of a video."""
    content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
    return said_by(engine, content, [tokens_FQD], max_new_tokens)


def refusal(
    url: str, body: object, path: str = "/v1/chat/completions", key: str = KEY
) -> tuple[int, str, str]:
    """Status, code and message of a request that must fail."""
    response = httpx.post(
        f"{url}{path}",
        content=json.dumps(body),  # escapes half a surrogate pair
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        timeout=PATIENCE_S,
    )
    error = response.json()["error"]
    return response.status_code, error["code"], error["message"]
