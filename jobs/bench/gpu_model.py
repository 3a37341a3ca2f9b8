"""Rows of `gpu.py` about whole models: a training step, its memory, answers, and frames."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from gpu_kernels import peak_bytes, settle
from gpu_sizes import Reading, Sizes
from transformers import CLIPVisionConfig, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from longva_ray.answer.attention import use_cached_attention
from longva_ray.answer.generate import generate_tokens
from longva_ray.answer.prefill import prefill
from longva_ray.lm.fused import fuse
from longva_ray.lm.loss import linear_cross_entropy
from longva_ray.lm.tiled_mlp import tile_mlps
from longva_ray.planner.activations import activation_terms
from longva_ray.planner.memory import peak
from longva_ray.planner.setup import ModelShape, Setup
from longva_ray.ring.attention import Ring
from longva_ray.ring.hf import NAME, register, ring_inputs
from longva_ray.ring.layout import ZigzagLayout
from longva_ray.settings.answering import GenerationSettings
from longva_ray.settings.training import TrainConfig
from longva_ray.train.activations import checkpoint_activations
from longva_ray.train.speed import matmul_peak, training_flops
from longva_ray.vision.frame_encoder import FrameEncoder


def language_model(sizes: Sizes, layers: int, attention: str = "sdpa") -> PreTrainedModel:
    config: Any = Qwen2Config(**sizes.model, num_hidden_layers=layers)
    config._attn_implementation = attention
    torch.manual_seed(0)
    with torch.device(sizes.device):
        model = Qwen2ForCausalLM._from_config(config, dtype=sizes.dtype)
    if sizes.device == "cuda":
        fuse(model)
    return model


def training_step(sizes: Sizes, layers: int, tokens: int, *, offload: bool) -> Callable[[], None]:
    """Forward and backward as the training stages do them; gradients are there before."""
    register()
    model = language_model(sizes, layers, NAME).train()
    checkpoint_activations(model, offload=offload)
    tile_mlps(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ring = Ring(layout=ZigzagLayout(document_lengths=(tokens,), world_size=1))
    ids = torch.randint(model.config.vocab_size, (1, tokens), device=sizes.device)

    def hidden() -> torch.Tensor:
        inputs = ring_inputs(model, ring)
        output: torch.Tensor = model.model(input_ids=ids, **inputs).last_hidden_state
        return output

    def step() -> None:
        linear_cross_entropy(hidden(), model.lm_head.weight, ids).backward()

    return step


def seconds_of(run: Callable[[], Any]) -> float:
    settle()
    start = time.perf_counter()
    run()
    settle()
    return time.perf_counter() - start


def step_rows(sizes: Sizes) -> Iterator[Reading]:
    """The second step, as MFU of a matrix product of this run; with and without offload."""
    ceiling = matmul_peak(torch.device(sizes.device), sizes.dtype)
    yield Reading(what="matrix product", value=ceiling / 1e12, unit="TFLOP/s")
    config = Qwen2Config(**sizes.model, num_hidden_layers=sizes.layers)
    for tokens in sizes.steps:
        for offload in (False, True):
            step = training_step(sizes, sizes.layers, tokens, offload=offload)
            first, second = seconds_of(step), seconds_of(step)
            where = ", checkpoints on the host" if offload else ""
            what = f"step, {sizes.layers} layers, {tokens} tokens{where} (first {first:.1f} s)"
            rate = training_flops(config, (tokens,)) / second
            yield Reading(
                what=what,
                value=second,
                unit="s",
                reference="matrix product",
                ratio=rate / ceiling,
            )
            del step
            settle()


def memory_rows(sizes: Sizes) -> Iterator[Reading]:
    """Bytes that a further token takes with two layers, beside the plan's."""
    if sizes.device != "cuda":
        return
    short, long = sizes.memory
    setup = Setup(
        model=ModelShape.of(Qwen2Config(**sizes.model, num_hidden_layers=2)),
        gpus=1,
        ring_size=1,
        train=TrainConfig(zero_stage=1, tile_mlps=True),
    )
    peaks = [peak_bytes(training_step(sizes, 2, n, offload=True)) for n in (short, long)]
    planned = [peak(activation_terms(setup, n))[0] for n in (short, long)]
    a_token = (peaks[1] - peaks[0]) / (long - short)
    total = torch.cuda.get_device_properties(sizes.device).total_memory
    yield Reading(
        what="activations of a step, 2 layers, checkpoints on the host",
        value=a_token,
        unit="B/token",
        reference="plan",
        ratio=a_token / ((planned[1] - planned[0]) / (long - short)),
    )
    fits = short + (0.95 * total - peaks[0]) / a_token
    yield Reading(what="  tokens that fit (extrapolated)", value=fits, unit="tokens")


def answer_rows(sizes: Sizes) -> Iterator[Reading]:
    """Reading beside its arithmetic; a token beside reading weights and cache once."""
    model: Any = language_model(sizes, sizes.layers).eval()
    use_cached_attention(model)
    model.generation_config.eos_token_id = -1  # no token ends an answer
    ceiling = matmul_peak(torch.device(sizes.device), sizes.dtype)
    bandwidth = copy_rate(sizes)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    for tokens in sizes.prompts:
        prompt = torch.randn(
            1, tokens, model.config.hidden_size, dtype=sizes.dtype, device=sizes.device
        )
        read = functools.partial(prefill, model, prompt, chunk=sizes.chunk)
        read()
        seconds = seconds_of(read)
        floor = training_flops(model.config, (tokens,)) / 3 / ceiling
        yield Reading(
            what=f"read {tokens} tokens, {sizes.layers} layers, chunk {sizes.chunk}",
            value=seconds,
            unit="s",
            reference="its arithmetic",
            ratio=seconds / floor,
        )
        settings = GenerationSettings(max_new_tokens=sizes.generated)
        were_read = read()
        generate = functools.partial(_generate, model, were_read, settings)
        generate()
        each = seconds_of(generate) / sizes.generated
        config = model.config
        head = config.hidden_size // config.num_attention_heads
        cache = 2 * sizes.layers * config.num_key_value_heads * head * tokens
        floor = (weights + cache * prompt.element_size()) / bandwidth
        yield Reading(
            what=f"  one more token after {tokens}",
            value=1000 * each,
            unit="ms",
            reference="bytes alone",
            ratio=each / floor,
        )


def _generate(model: PreTrainedModel, were_read: Any, settings: GenerationSettings) -> None:
    list(generate_tokens(model, were_read, settings))


def copy_rate(sizes: Sizes) -> float:
    """Bytes a second that are read and written by a copy."""
    size = 2**30 if sizes.device == "cuda" else 2**22
    source = torch.zeros(size, dtype=torch.uint8, device=sizes.device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * size / min(seconds_of(functools.partial(target.copy_, source)) for _ in range(5))


def encode_rows(sizes: Sizes) -> Iterator[Reading]:
    """Frames from host memory through tower, projector and pooling, beside the bare tower."""
    config = CLIPVisionConfig(**sizes.tower)
    with torch.device(sizes.device):
        encoder = FrameEncoder(
            config,
            width=sizes.model["hidden_size"],
            feature_layer=-2,
            pool_stride=2,
            hidden_act="gelu",
        )
    encoder.to(sizes.dtype).eval()
    side = encoder.grid_size
    frames = torch.randint(256, (sizes.frames, side, side, 3), dtype=torch.uint8)
    pixels = torch.randn(
        min(64, sizes.frames), 3, side, side, dtype=sizes.dtype, device=sizes.device
    )

    @torch.inference_mode()
    def tower() -> None:
        encoder.projector(encoder.tower(pixels))

    for micro_batch in (16, 128):
        encode = functools.partial(encoder.encode, frames, micro_batch=micro_batch)
        encode(), tower()
        rate, bare = sizes.frames / seconds_of(encode), len(pixels) / seconds_of(tower)
        yield Reading(
            what=f"encode {sizes.frames} frames, micro-batch {micro_batch}",
            value=rate,
            unit="frames/s",
            reference="tower and projector",
            ratio=rate / bare,
        )
