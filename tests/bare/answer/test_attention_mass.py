"""What an answer looked at: equal to transformers' own weights, and the needle's frame is first."""

import random

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from longva_ray.answer.attention import use_cached_attention
from longva_ray.answer.attention_mass import attention_of_answer
from longva_ray.answer.engine import AnswerEngine, Question
from longva_ray.answer.prefill import prefill
from longva_ray.lm.load import load_frame_encoder
from longva_ray.settings.answering import GenerationSettings
from longva_ray.tiny.drawing import draw_small
from longva_ray.tiny.videos import plan_haystack
from longva_ray.tiny.world import Scene, ask_colour, random_scene


@pytest.mark.parametrize("length", [1, 5, 40])
def test_sums_are_those_of_the_weights_of_eager_attention(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor, length: int
) -> None:
    answer = torch.randint(0, 90, (length,), generator=torch.Generator().manual_seed(0))
    use_cached_attention(language_model)
    prompt = prefill(language_model, prompt_1TD, chunk=10)
    found_T = attention_of_answer(language_model, prompt, answer.tolist())
    assert prompt.cache.get_seq_length() == prompt.length == 37
    language_model.set_attn_implementation("eager")
    embeds = language_model.get_input_embeddings()(answer)[None]
    with torch.no_grad():
        whole = language_model(
            inputs_embeds=torch.cat([prompt_1TD, embeds], 1), output_attentions=True
        )
    wanted_T = sum(layer[0, :, 37:, :37].sum((0, 1)) for layer in whole.attentions)
    torch.testing.assert_close(found_T, wanted_T, rtol=1e-4, atol=1e-4)
    # A model with an attention of its own tells nothing, and nothing is made up.
    assert attention_of_answer(language_model, prompt, answer.tolist()) is None


def test_the_frame_that_holds_the_answer_is_looked_at_most(tiny_checkpoint: str) -> None:
    engine = AnswerEngine(tiny_checkpoint, dtype="float32", prefill_chunk=160)
    encoder = load_frame_encoder(tiny_checkpoint, dtype=torch.float32)
    for seed in range(3):
        rng, noise = random.Random(seed), np.random.default_rng(seed)
        scenes: list[Scene] = plan_haystack(90, seed)
        at = rng.randrange(90)
        scenes[at] = random_scene(rng, ("letter",))
        frames_FYXC = np.stack([draw_small(scene, 56, noise) for scene in scenes])
        tokens_FQD = encoder.encode(frames_FYXC, micro_batch=32)
        exchange = ask_colour(scenes, scenes[at].thing)
        content = [{"type": "video"}, {"type": "text", "text": exchange.question}]
        question = Question(messages=[{"role": "user", "content": content}], items=[tokens_FQD])
        prompt = engine.read(question)
        answer = engine.answer(prompt, GenerationSettings())
        assert answer == exchange.answer
        (share_FQ,) = engine.attention(question, prompt, answer) or ()
        assert share_FQ.shape == tokens_FQD.shape[:2]
        assert float(share_FQ.sum()) == pytest.approx(1)
        assert int(share_FQ.sum(1).argmax()) == at
        assert engine.attention(question, prompt, "") is None
