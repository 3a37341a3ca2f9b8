"""How long a prompt and its answer may be, and whether the model's device still works."""

import random
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from longva_ray.answer import engine as engine_module
from longva_ray.answer.engine import AnswerEngine, Question
from longva_ray.answer.ring_score import (
    RingPrompt,
    nll_over_ring,
    ring_attention_name,
    score_over_ring,
)
from longva_ray.lm.language_model import load_language_model
from longva_ray.lm.load import load_frame_encoder
from longva_ray.lm.prompt import UNLIMITED, Message
from longva_ray.settings.answering import GenerationSettings
from longva_ray.tiny.drawing import draw_small
from longva_ray.tiny.world import forms, needles_among_shapes

MESSAGES = [
    {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "what is there?"}]}
]


def engine_of(checkpoint: str, limit: int | None = None) -> AnswerEngine:
    return AnswerEngine(checkpoint, dtype="float32", prefill_chunk=64, max_prompt_tokens=limit)


@pytest.fixture(scope="module")
def length(tiny_checkpoint: str) -> int:
    """Of the prompt about 3 frames of 4 tokens."""
    return len(engine_of(tiny_checkpoint).prompt_ids(MESSAGES, [12]))


def test_the_limit_is_for_prompt_and_answer_together(tiny_checkpoint: str, length: int) -> None:
    engine = engine_of(tiny_checkpoint, length + 5)
    assert len(engine.prompt_ids(MESSAGES, [12], answer_tokens=5)) == length
    with pytest.raises(ValueError, match=rf"prompt of {length} tokens and answer of 6 .* most 5"):
        engine.prompt_ids(MESSAGES, [12], answer_tokens=6)
    with pytest.raises(ValueError, match=f"prompt of {length + 6} tokens exceeds"):
        engine.prompt_ids(MESSAGES, [18])


def test_placeholders_of_endless_videos_are_never_made(tiny_checkpoint: str) -> None:
    with pytest.raises(ValueError, match=f"prompt of {10**15} tokens"):
        engine_of(tiny_checkpoint, 1000).prompt_ids(MESSAGES, [10**15])


def test_an_answer_ends_at_the_limit(tiny_checkpoint: str, length: int) -> None:
    question = Question(messages=MESSAGES, items=[torch.zeros(3, 4, 128)])

    def tokens_of_answer(limit: int | None) -> tuple[int, str | None]:
        engine = engine_of(tiny_checkpoint, limit)
        *_, last = engine.stream(engine.read(question), GenerationSettings(max_new_tokens=20))
        return last.num_tokens, last.finish_reason

    whole, _ = tokens_of_answer(None)
    assert whole > 2, "an answer as short as that has nothing to cut"
    assert tokens_of_answer(length + 2) == (2, "length")


def test_what_is_streamed_is_the_answer(tiny_checkpoint: str) -> None:
    engine = engine_of(tiny_checkpoint)
    prompt = engine.read(Question(messages=MESSAGES, items=[torch.zeros(3, 4, 128)]))
    settings = GenerationSettings(max_new_tokens=9)
    pieces = list(engine.stream(prompt, settings))
    assert engine.answer(prompt, settings) == "".join(piece.text for piece in pieces) != ""


def test_the_checkpoints_limit_can_be_lifted(tiny_checkpoint: str) -> None:
    engine = engine_of(tiny_checkpoint, UNLIMITED)
    assert len(engine.prompt_ids(MESSAGES, [10**6], answer_tokens=10**6)) > 10**6


def test_a_question_before_its_video_is_answered_like_one_after_it(tiny_checkpoint: str) -> None:
    scenes = needles_among_shapes(random.Random(2), 6)
    rng = np.random.default_rng(2)
    encoder = load_frame_encoder(tiny_checkpoint, dtype=torch.float32)
    frames_FYXC = np.stack([draw_small(scene, encoder.grid_size, rng) for scene in scenes])
    tokens_FQD = encoder.encode(frames_FYXC, micro_batch=6)
    engine = engine_of(tiny_checkpoint)
    settings = GenerationSettings(max_new_tokens=12)
    there, _ = forms(scenes, random.Random(2))
    exchanges = [exchange for found in there.values() for exchange in found]
    right = 0
    for exchange in exchanges[:8]:
        parts = [{"type": "video"}, {"type": "text", "text": exchange.question}]
        said = [
            engine.answer(
                engine.read(
                    Question(messages=[{"role": "user", "content": order}], items=[tokens_FQD])
                ),
                settings,
            )
            for order in (parts, parts[::-1])
        ]
        assert said[0] == said[1]
        right += said[0].strip() == exchange.answer
    assert right >= 7


def test_a_model_without_eyes_is_asked_about_text(random_lm: str) -> None:
    engines = [
        AnswerEngine(random_lm, dtype="float32", prefill_chunk=8, reuse_prefix=reuse)
        for reuse in (False, True)
    ]
    prompts = [engines[0].answer_ids(f"{'a text that goes on ' * 3}{end}") for end in "xyz"]
    answers = [engines[0].answer_ids(answer) for answer in ("yes", "no, never")]
    found = []
    for engine in engines:
        scores = []
        for prompt_ids in prompts:
            prompt = engine.read_ids(torch.tensor(prompt_ids))
            assert prompt.length == len(prompt_ids)
            answered = engine.answer(prompt, GenerationSettings(max_new_tokens=5))
            scores.append((engine.score(prompt, answers), answered))
        found.append(scores)
    assert found[0] == found[1]
    assert engines[0].prefix_reader is None
    reader = engines[1].prefix_reader
    assert reader is not None
    assert reader.tokens_reused == 2 * ((len(prompts[0]) - 1) // 8 * 8)  # whole chunks, twice


def test_a_text_is_as_likely_as_its_tokens_are_scored(random_lm: str) -> None:
    engine = AnswerEngine(random_lm, dtype="float32", prefill_chunk=8)
    ids = engine.answer_ids("as likely as it is")
    (score,) = engine.score(engine.read_ids(torch.tensor(ids[:4])), [ids[4:]])
    nll_T = engine.token_nll(ids)
    assert nll_T.shape == (len(ids) - 1,)
    assert nll_T[3:].tolist() == pytest.approx([-value for value in score.token_logprobs], abs=1e-4)


def test_an_answer_to_score_is_unicode(random_lm: str) -> None:
    engine = AnswerEngine(random_lm, dtype="float32", prefill_chunk=8)
    assert engine.answer_ids("\U0001f600")
    with pytest.raises(ValueError, match="answer to score is not Unicode"):
        engine.answer_ids("\ud83d")


def test_weights_beyond_their_number_format_are_never_scored(random_lm: str) -> None:
    """Each weight fits float16, but the logits do not."""
    engine = AnswerEngine(random_lm, dtype="float16", prefill_chunk=8)
    prompt = engine.read_ids(torch.tensor([5, 6, 7]))
    (score,) = engine.score(prompt, [[8, 9]])
    assert np.isfinite(score.token_logprobs).all()

    head = engine._lm.model.get_output_embeddings()
    with torch.no_grad():
        head.weight.mul_(1e7)
    fault = f"want a finite number.*weights of {random_lm} .* float16: load them as float32"
    prompt = engine.read_ids(torch.tensor([5, 6, 7]))
    with pytest.raises(FloatingPointError, match=fault):
        engine.score(prompt, [[8, 9]])
    with pytest.raises(FloatingPointError, match=fault):
        engine.token_nll([5, 6, 7, 8])
    with pytest.raises(FloatingPointError, match=fault):
        engine.answer(prompt, GenerationSettings(max_new_tokens=1))


def test_over_a_ring_they_are_not_scored_either(random_lm: str) -> None:
    loaded = load_language_model(
        random_lm, dtype=torch.float32, attn_implementation=ring_attention_name()
    )
    prompt = RingPrompt(embeds_1TD=torch.randn(1, 5, 32))
    score_over_ring(loaded.model, prompt, [8, 9], None)
    with torch.no_grad():
        loaded.model.get_output_embeddings().weight[7, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"token is nan, .*\(2 of 2 are not\)"):
        score_over_ring(loaded.model, prompt, [8, 9], None)
    with pytest.raises(FloatingPointError, match="token is nan"):
        nll_over_ring(loaded.model, torch.tensor([5, 6, 7]), None)


def test_a_device_that_works_passes(tiny_checkpoint: str) -> None:
    engine_of(tiny_checkpoint).check_device()


BREAK_THE_DEVICE = """
import sys, torch
from longva_ray.answer.engine import AnswerEngine
engine = AnswerEngine(sys.argv[1], dtype="float32")
engine.check_device()
try:
    torch.multinomial(torch.full((3,), float("nan"), device="cuda"), 1).item()
except RuntimeError:
    pass
try:
    engine.check_device()
except RuntimeError:
    print("noticed")
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_broken_cuda_context_is_noticed(tiny_checkpoint: str) -> None:
    """In another process, since this one would be of no more use."""
    command = [sys.executable, "-c", BREAK_THE_DEVICE, tiny_checkpoint]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "noticed" in run.stdout, run.stderr


def test_a_second_question_loads_nothing_and_answers_alike(tiny_checkpoint: str) -> None:
    plain = engine_of(tiny_checkpoint)
    kept = AnswerEngine(tiny_checkpoint, dtype="float32", prefill_chunk=64, session_bytes=2**30)
    rng = np.random.default_rng(0)
    scenes = needles_among_shapes(random.Random(1), 40)
    encoder = load_frame_encoder(tiny_checkpoint, dtype=torch.float32)
    frames_FYXC = np.stack([draw_small(scene, 56, rng) for scene in scenes])
    tokens_FQD = encoder.encode(frames_FYXC, micro_batch=16)
    loads: list[int] = []

    def ask(text: str, frames: int) -> int:
        content = [{"type": "video"}, {"type": "text", "text": text}]
        messages = [{"role": "user", "content": content}]
        items = [tokens_FQD[:frames]]
        prompt_ids_T = kept.prompt_ids(messages, [frames * 4])
        prompt, cached = kept.read_session(
            prompt_ids_T, [("video", frames)], lambda: loads.append(frames) or items
        )
        wanted = plain.read(Question(messages=messages, items=items))
        settings = GenerationSettings()
        assert kept.answer(prompt, settings) == plain.answer(wanted, settings)
        answers = [kept.answer_ids("the A red."), kept.answer_ids("red")]
        for found, true in zip(
            kept.score(prompt, answers), plain.score(wanted, answers), strict=True
        ):
            assert found.logprob == pytest.approx(true.logprob, abs=1e-4)
            assert found.predicted_ids == true.predicted_ids
        return cached

    there, _ = forms(scenes, random.Random(2))
    questions = [exchange.question for found in there.values() for exchange in found]
    assert ask(questions[0], 40) == 0
    assert all(ask(question, 40) > 160 for question in questions)
    assert ask(questions[0], 39) == 0
    assert ask(questions[0], 40) > 160
    assert loads == [40, 39]
    assert kept.sessions is not None
    assert kept.sessions.counts().kept == 2


def test_no_prompt_is_given_what_was_read_of_another(
    tiny_checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many conversations that differ in little. In place of a cache there is what was read."""
    engine = AnswerEngine(tiny_checkpoint, dtype="float32", session_bytes=20_000)

    class Read:
        def __init__(self, embeds_1TD: torch.Tensor) -> None:
            self.embeds_1TD = embeds_1TD
            self.num_bytes = embeds_1TD.shape[1]

    def prefill(
        _: object, embeds_1TD: torch.Tensor, *, cache: torch.Tensor | None = None, **__: object
    ) -> Any:
        before = [] if cache is None else [cache]
        return SimpleNamespace(cache=torch.cat([*before, embeds_1TD], 1))

    monkeypatch.setattr(engine_module, "prefill", prefill)
    monkeypatch.setattr(engine_module, "Trunk", SimpleNamespace(of=Read))
    monkeypatch.setattr(engine_module, "branch_cache", lambda trunk: trunk.embeds_1TD)
    rng = random.Random(0)
    contents = torch.randn(2, 3, 4, 128, generator=torch.Generator().manual_seed(0))
    hits = 0
    for _ in range(3000):
        messages: list[Message] = []
        items, keys = [], []
        if rng.random() < 0.3:
            messages.append({"role": "system", "content": rng.choice(["be", "<video>"])})
        for turn in range(rng.choice([1, 1, 3])):
            parts = []
            for _ in range(rng.randrange(4)):
                kind = rng.choice(["text", "image", "video"])
                if kind == "text":
                    parts.append({"type": "text", "text": rng.choice(["a", "a b", "<image>", ""])})
                    continue
                parts.append({"type": kind})
                content, frames = rng.randrange(2), rng.choice([1, 2, 3])
                items.append(contents[content, :frames])
                keys.append((kind, content, frames))
            role = ("user", "assistant")[turn % 2]
            messages.append({"role": role, "content": [*parts, {"type": "text", "text": "b"}]})
        prompt_ids_T = engine.prompt_ids(messages, [4 * len(item) for item in items])
        found, cached = engine.read_session(prompt_ids_T, keys, lambda items=items: items)
        true = engine.read_ids(prompt_ids_T, items)
        assert torch.equal(found.cache, true.cache)
        hits += cached > 0
    assert engine.sessions is not None
    counts = engine.sessions.counts()
    assert hits == counts.hits > 200
    assert counts.evictions > 200
