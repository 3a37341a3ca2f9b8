"""Perplexity by position against one plain forward pass."""

import dataclasses

import pytest
import torch

from longva_ray.answer.score import token_nll
from longva_ray.evaluate.subjects import Subject
from longva_ray.evaluate.text.haystack import read_essays
from longva_ray.evaluate.text.niah import NiahPrompts, NiahWorker, plan_windows
from longva_ray.lm.language_model import load_language_model
from longva_ray.settings.needles import NiahConfig


@pytest.mark.parametrize("chunk", [1, 7, 49, 50, 100])
def test_chunks_change_nothing(random_lm: str, chunk: int) -> None:
    model = load_language_model(random_lm, dtype=torch.float32).model
    ids_T = torch.randint(0, 256, (50,), generator=torch.Generator().manual_seed(0))
    got = token_nll(model, ids_T, chunk=chunk)
    with torch.inference_mode():
        logits = model(input_ids=ids_T[None]).logits[0, :-1]
    wanted = torch.nn.functional.cross_entropy(logits, ids_T[1:], reduction="none")
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_windows_are_averaged_in_stretches(random_lm: str, small_grid: NiahConfig) -> None:
    config = dataclasses.replace(small_grid, perplexity_windows=2)
    essays = read_essays(None)
    worker = NiahWorker(Subject(name="m", path=random_lm, dtype="float32"), config, essays)
    outcomes = worker(plan_windows(config))
    assert sorted(outcomes) == ["window-0-of-2", "window-1-of-2"]
    first, second = outcomes["window-0-of-2"], outcomes["window-1-of-2"]
    assert first["edges"][0] == 0
    assert first["edges"][-1] == 420
    assert len(first["nll"]) == len(first["edges"]) - 1 == 32
    assert first["nll"] != second["nll"]
    loaded = load_language_model(random_lm, dtype=torch.float32)
    ids = loaded.tokenizer.encode(essays)[: 420 + 1]
    nll_T = token_nll(loaded.model, torch.tensor(ids), chunk=64)
    sizes = torch.tensor(first["edges"]).diff()
    mean = float((torch.tensor(first["nll"]) * sizes).sum() / 420)
    assert mean == pytest.approx(float(nll_T.mean()), abs=1e-4)


def test_a_window_ends_where_short_essays_would_repeat(
    random_lm: str, small_grid: NiahConfig
) -> None:
    config = dataclasses.replace(small_grid, perplexity_windows=2)
    essay = "".join(map(chr, range(48, 123)))  # 75 characters, none of them twice
    tokenizer = load_language_model(random_lm, dtype=torch.float32).tokenizer
    prompts = NiahPrompts(config, essay, tokenizer)
    windows = [tokenizer.decode(prompts.window(window)) for window in plan_windows(config)]
    assert windows == [essay, essay[37:] + essay[:37]]
