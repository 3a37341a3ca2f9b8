"""Several replicas of the language model: what is asked about the same goes to the same one."""

import dataclasses

import openai
import pytest
from pictures import data_url, encoded, noise

from longva_ray.serving.app_args import AppArgs


@pytest.fixture(scope="module")
def args(args: AppArgs) -> AppArgs:
    serve = dataclasses.replace(args.serve, lm_replicas=2, lm_cpus=0.3)
    return args.model_copy(update={"serve": serve})


def test_every_further_question_finds_what_the_first_one_left(client: openai.OpenAI) -> None:
    """Whatever the client calls its own session."""
    images = [data_url(encoded(noise(56, 56, seed=seed))) for seed in range(6)]
    for number in range(3):
        for seed, image in enumerate(images):
            content = [
                {"type": "image_url", "image_url": {"url": image}},
                {"type": "text", "text": f"what is number {number}?"},
            ]
            answer = client.chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": content}],  # type: ignore[misc, list-item]
                max_tokens=2,
                extra_headers={"x-session-id": f"{number} and {seed}"},
            )
            assert answer.usage is not None
            details = answer.usage.prompt_tokens_details
            assert details is not None
            assert bool(details.cached_tokens) == (number > 0), (number, seed)
