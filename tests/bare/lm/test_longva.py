"""The model against a plain composition of its parts, and all of transformers' generation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface, CLIPVisionConfig, PreTrainedTokenizerFast
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from longva_ray.lm.longva import LongVAForConditionalGeneration, encoded, forbid_placeholders
from longva_ray.lm.longva_config import LongVAConfig
from longva_ray.lm.processor import processor_for

MakeConfig = Callable[..., LongVAConfig]


IMAGE, VIDEO = 259, 260


def prompt(*runs: tuple[int, int] | str) -> Tensor:
    """input_ids_1T from (placeholder, count) and text."""
    ids: list[int] = []
    for run in runs:
        ids += list(run.encode()) if isinstance(run, str) else [run[0]] * run[1]
    return torch.tensor([ids])


PROMPT = prompt("look ", (IMAGE, 2), " and ", (VIDEO, 4), " what?")


@pytest.fixture(scope="module")
def pixels(frames_FYXC: NDArray[np.uint8]) -> dict[str, Tensor]:
    frames = torch.from_numpy(frames_FYXC)
    return {"pixel_values": frames[:2], "pixel_values_videos": frames[2:]}


@pytest.fixture(scope="module")
def cached(model: LongVAForConditionalGeneration, frames_FYXC: NDArray[np.uint8]) -> dict[str, Any]:
    tokens_GQD = model.frame_encoder.encode(frames_FYXC, micro_batch=2)
    outputs = {"image": encoded(tokens_GQD[:2]), "video": encoded(tokens_GQD[2:])}
    return {"mm_encoder_outputs": outputs}


def generate(model: LongVAForConditionalGeneration, ids_BT: Tensor, **inputs: Any) -> Tensor:
    chosen = {"max_new_tokens": 8, "do_sample": False} | inputs
    return model.generate(input_ids=ids_BT, **chosen)[:, ids_BT.shape[1] :]


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("tied", [False, True])
def test_logits_equal_a_plain_composition(
    make_config: MakeConfig, pixels: dict[str, Tensor], kind: str, tied: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = LongVAForConditionalGeneration(make_config(kind, tie_word_embeddings=tied)).eval()
    table = model.language_model.get_input_embeddings().weight
    assert (model.language_model.lm_head.weight is table) == tied
    tokens_GQD = model.frame_encoder.encode(torch.cat(list(pixels.values())), micro_batch=8)
    tokens = iter(tokens_GQD.flatten(0, 1))
    ids = PROMPT[0].tolist()
    embeds_1TD = torch.stack([next(tokens) if i in (IMAGE, VIDEO) else table[i] for i in ids])[None]
    with torch.no_grad():
        wanted = model.language_model(inputs_embeds=embeds_1TD).logits
        logits = model(input_ids=PROMPT, **pixels).logits
    # The two sides encode the grids in batches of different size, which float32 rounds differently.
    torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5)

    model.save_pretrained(tmp_path)
    loaded = LongVAForConditionalGeneration.from_pretrained(tmp_path)
    assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) == tied
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=PROMPT, **pixels).logits, logits)


def test_images_and_videos_find_their_own_placeholders(
    model: LongVAForConditionalGeneration, cached: dict[str, Any]
) -> None:
    """A video that comes before an image in the text still takes the video's tokens."""
    swapped = prompt((VIDEO, 4), " ", (IMAGE, 2))
    outputs = cached["mm_encoder_outputs"]
    with torch.no_grad():
        logits = model(input_ids=swapped, **cached).logits
        items = [outputs["video"].pooler_output[0], outputs["image"].pooler_output[0]]
        space = model.get_input_embeddings()(torch.tensor([32]))
        embeds_1TD = torch.cat([items[0], space, items[1]])[None]
        wanted = model(inputs_embeds=embeds_1TD).logits
    assert torch.equal(logits, wanted)


def test_generation_from_pixels_equals_generation_from_cached_tokens(
    model: LongVAForConditionalGeneration, pixels: dict[str, Tensor], cached: dict[str, Any]
) -> None:
    answer = generate(model, PROMPT, **pixels)
    assert answer.shape == (1, 8)
    assert torch.equal(answer, generate(model, PROMPT, **cached))
    # The pixels matter: other pixels, another answer.
    black = {name: torch.zeros_like(value) for name, value in pixels.items()}
    assert not torch.equal(answer, generate(model, PROMPT, **black))


def test_generation_with_and_without_cache_and_in_chunks(
    model: LongVAForConditionalGeneration, cached: dict[str, Any]
) -> None:
    answer = generate(model, PROMPT, **cached)
    assert torch.equal(answer, generate(model, PROMPT, use_cache=False, **cached))
    # chunks of 7 cut through the run of visual tokens
    assert torch.equal(answer, generate(model, PROMPT, prefill_chunk_size=7, **cached))


def test_sampling_is_reproducible_and_beams_start_from_the_same_prompt(
    model: LongVAForConditionalGeneration, pixels: dict[str, Tensor], cached: dict[str, Any]
) -> None:
    samples = []
    for inputs in (pixels, cached):
        torch.manual_seed(3)
        samples.append(generate(model, PROMPT, do_sample=True, num_return_sequences=3, **inputs))
    assert torch.equal(*samples)
    assert len(set(map(tuple, samples[0].tolist()))) > 1
    beams = [
        generate(model, PROMPT, num_beams=3, use_cache=use_cache, **pixels)
        for use_cache in (True, False)
    ]
    assert torch.equal(*beams)


def log_likelihood(
    model: LongVAForConditionalGeneration, answer: Tensor, cached: dict[str, Any]
) -> float:
    ids_BT = torch.cat([PROMPT, answer], dim=1)
    with torch.no_grad():
        logits = model(input_ids=ids_BT, **cached).logits.log_softmax(-1)
    scores = logits[0, PROMPT.shape[1] - 1 : -1].gather(-1, answer[0, :, None])
    return float(scores.sum())


def test_beams_find_an_answer_at_least_as_likely_as_greedy(
    model: LongVAForConditionalGeneration, cached: dict[str, Any]
) -> None:
    """Would fail if a beam saw another beam's visual tokens."""
    greedy = generate(model, PROMPT, **cached)
    beams = generate(model, PROMPT, num_beams=4, **cached)
    assert log_likelihood(model, beams, cached) >= log_likelihood(model, greedy, cached)


def test_left_padded_batch_equals_one_by_one(
    model: LongVAForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    frames_FYXC: NDArray[np.uint8],
) -> None:
    processor = processor_for(model.config, tokenizer, tokens_per_grid=1)
    texts = ["<video> what is it?", "<video>?", "only text"]
    videos = [frames_FYXC[:2], frames_FYXC[2:]]
    batch = processor(text=texts, videos=videos)
    together = model.generate(**batch, max_new_tokens=6, do_sample=False)[:, -6:]
    for row, text in enumerate(texts):
        alone = processor(text=text, videos=videos[row : row + 1])
        answer = model.generate(**alone, max_new_tokens=6, do_sample=False)[:, -6:]
        assert torch.equal(answer[0], together[row])


def test_beams_of_a_batch_keep_their_videos(
    model: LongVAForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    frames_FYXC: NDArray[np.uint8],
) -> None:
    processor = processor_for(model.config, tokenizer, tokens_per_grid=1)
    videos = [frames_FYXC[:3], frames_FYXC[3:]]
    batch = processor(text=["<video>what?"] * 2, videos=videos)
    settings: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "num_beams": 3}
    together = model.generate(**batch, **settings)
    for row, video in enumerate(videos):
        alone = processor(text="<video>what?", videos=[video])
        assert torch.equal(model.generate(**alone, **settings)[0], together[row])


def test_training_reaches_both_halves(make_config: MakeConfig, pixels: dict[str, Tensor]) -> None:
    torch.manual_seed(0)
    model = LongVAForConditionalGeneration(make_config())
    labels = PROMPT.masked_fill(PROMPT >= IMAGE, -100)
    plain = model(input_ids=PROMPT, labels=labels, **pixels)
    logits = plain.logits[0, :-1].float()
    wanted = torch.nn.functional.cross_entropy(logits, labels[0, 1:])
    torch.testing.assert_close(plain.loss, wanted)
    plain.loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert set(grads) == {name for name, _ in model.named_parameters()}

    model.zero_grad()
    model.activation_checkpointing_enable()
    model.train()
    model(input_ids=PROMPT, labels=labels, use_cache=False, **pixels).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[name], rtol=1e-4, atol=1e-7)


def test_logits_to_keep(model: LongVAForConditionalGeneration, cached: dict[str, Any]) -> None:
    with torch.no_grad():
        every = model(input_ids=PROMPT, **cached).logits
        last = model(input_ids=PROMPT, logits_to_keep=2, **cached).logits
    torch.testing.assert_close(last, every[:, -2:])


def test_attention_name_reaches_the_language_model_only(
    make_config: MakeConfig, pixels: dict[str, Tensor], tmp_path: Path
) -> None:
    seen: list[str] = []

    def spy(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        seen.append(type(module).__name__)
        return sdpa_attention_forward(module, *args, **kwargs)

    AttentionInterface.register("spy", spy)
    torch.manual_seed(0)
    model = LongVAForConditionalGeneration(make_config()).eval()
    with torch.no_grad():
        wanted = model(input_ids=PROMPT, **pixels).logits
    model.save_pretrained(tmp_path)
    by_name = LongVAForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="spy")
    model.set_attn_implementation("spy")
    for candidate in (by_name, model):
        seen.clear()
        with torch.no_grad():
            logits = candidate(input_ids=PROMPT, **pixels).logits
        assert seen == ["Qwen2Attention"] * 2
        torch.testing.assert_close(logits, wanted)


def test_placeholders_are_never_generated(make_config: MakeConfig, cached: dict[str, Any]) -> None:
    """Where the vocabulary has rows for them, a random model would."""
    torch.manual_seed(0)
    model = LongVAForConditionalGeneration(make_config(vocab_size=262)).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight[VIDEO] *= 100
        logits = model(input_ids=PROMPT, **cached).logits[0, -8:]
    assert VIDEO in logits.argmax(-1)
    answer = generate(model, PROMPT, max_new_tokens=20, **cached)
    assert not torch.isin(answer, torch.tensor([IMAGE, VIDEO])).any()
    model.generation_config.suppress_tokens = [5]
    forbid_placeholders(model.generation_config, model.config)
    assert model.generation_config.suppress_tokens == [5, IMAGE, VIDEO]


def test_user_errors_give_both_counts(
    model: LongVAForConditionalGeneration, pixels: dict[str, Tensor], cached: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"4 placeholder\(s\).* but 0 item"):
        model(input_ids=PROMPT, pixel_values=pixels["pixel_values"])
    with pytest.raises(ValueError, match=r"0 placeholder\(s\) .* bring 2 visual token\(s\)"):
        model(input_ids=prompt("text"), pixel_values=pixels["pixel_values"])
    with pytest.raises(ValueError, match="both pixels and encoded tokens for the images"):
        model(input_ids=PROMPT, **pixels, **cached)
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model()
    with pytest.raises(ValueError, match="visual tokens need input_ids"):
        model(inputs_embeds=torch.zeros(1, 3, 32), **cached)


def test_config_round_trip_and_defaults(make_config: MakeConfig, tmp_path: Path) -> None:
    make_config("llama").save_pretrained(tmp_path)
    loaded = LongVAConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == make_config("llama").to_dict() | {
        "transformers_version": loaded.transformers_version
    }
    published = LongVAConfig()
    assert isinstance(published.vision, CLIPVisionConfig)
    assert (published.grid_size, published.text.hidden_size) == (336, 3584)
    assert published.text.rope_parameters["rope_theta"] == 1e9
    with pytest.raises(StrictDataclassError, match=r"expected one of .*paper.* got anyres"):
        LongVAConfig(grid_rule="anyres")
