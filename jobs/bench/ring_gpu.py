"""What one GPU can say about eight: what `ring.py` measures with `--device cuda`.

The block kernel against torch's SDPA, the kernel calls of one rank of eight replayed without the
other seven, the tiled loss at the size of a 7B model, and the activation memory of a training step
of Qwen2-7B's shape, measured on few layers and extrapolated to all.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from timing import GIB, AttentionShape, LossShape, Row, alternate, attend, loss_step, sdpa, speedup

from longva_ray.lm.loss import linear_cross_entropy
from longva_ray.ring.attention import Ring, ring_attention
from longva_ray.ring.choose import choose_kernel
from longva_ray.ring.kernel import Saved, accumulate_dtype, merge_
from longva_ray.ring.layout import ZigzagLayout
from longva_ray.ring.plan import Block, ring_blocks


def gpu_rows(shape: AttentionShape, loss: LossShape, repeats: int, device: str) -> list[Row]:
    """What one GPU can say: kernels, one rank of eight, the loss, and a training step."""
    return [
        Row(f"{torch.cuda.get_device_name()}, bfloat16, {shape}", ""),
        *gpu_kernel_rows(shape, repeats, device),
        *gpu_loss_rows(loss, repeats, device),
        *gpu_step_rows(device),
    ]


def gpu_kernel_rows(shape: AttentionShape, repeats: int, device: str) -> list[Row]:
    """The block kernel against SDPA's flash backend, and the kernel calls of one rank of eight."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    whole = shape.inputs(torch.bfloat16, device)
    alone = Ring(layout=ZigzagLayout(document_lengths=(shape.tokens,), world_size=1))
    eight = ZigzagLayout(document_lengths=(shape.tokens,), world_size=8)
    share = [eight.split(t, 3, dim=2, pad_value=0.0) for t in whole]
    runs: dict[str, Callable[[], Any]] = {
        "sdpa": lambda: attend(sdpa, whole),
        "block": lambda: attend(functools.partial(ring_attention, ring=alone), whole),
        "rank": lambda: replay(ring_blocks(eight, 3), share),
    }
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        seconds = alternate(runs, repeats, torch.cuda.synchronize)
    block, rank = speedup(seconds, "sdpa", "block"), speedup(seconds, "sdpa", "rank")
    return [
        Row("  block kernel over SDPA flash, forward+backward", f"{block:.2f}x", ">= 0.95x"),
        Row("  kernels and merges of one rank of 8 over full / 8", f"{8 / rank:.2f}x", "<= 1.12x"),
    ]


def replay(blocks: tuple[Block | None, ...], share: list[torch.Tensor]) -> None:
    """Kernel calls, merges and sums of one rank; local keys stand in for those of other ranks."""
    q, k, v, grad_out = share
    kernel, scale = choose_kernel(q.device.type), q.shape[-1] ** -0.5
    exact = accumulate_dtype(q.dtype)
    home, *others = blocks
    assert home is not None
    out, lse = kernel.forward(q, k, v, home, scale=scale)
    out = out.to(exact)
    for b in others:
        if b is not None:
            q_rows, k_rows, v_rows = q[:, :, b.queries], k[:, :, b.keys], v[:, :, b.keys]
            more_out, more_lse = kernel.forward(q_rows, k_rows, v_rows, b, scale=scale)
            merge_(out[:, :, b.queries], lse[:, :, b.queries], more_out, more_lse)
    saved = Saved(q, k, v, out.to(q.dtype), lse)
    sums = [torch.zeros_like(t, dtype=exact) for t in (q, k, v)]
    for b in blocks:
        if b is not None:
            rows = saved.cut(b.queries, b.keys)
            shares = kernel.backward(grad_out[:, :, b.queries], rows, b, scale=scale)
            for total, more, where in zip(sums, shares, (b.queries, b.keys, b.keys), strict=True):
                total[:, :, where] += more


def gpu_loss_rows(shape: LossShape, repeats: int, device: str) -> list[Row]:
    inputs = shape.inputs(torch.bfloat16, device)
    runs: dict[str, Callable[[], Any]] = {
        "plain": functools.partial(loss_step, 0, inputs),
        "tiled": functools.partial(loss_step, None, inputs),
    }
    plain, tiled = (gpu_peak_bytes(run) for run in runs.values())
    seconds = alternate(runs, repeats, torch.cuda.synchronize)
    return [
        Row(f"tiled loss, {shape}, bfloat16", ""),
        Row("  time over plain", f"{1 / speedup(seconds, 'plain', 'tiled'):.2f}x", "<= 1.15x"),
        Row("  peak memory over plain", f"1/{plain / tiled:.1f}", "<= 1/8"),
    ]


def gpu_peak_bytes(run: Callable[[], Any]) -> int:
    """Growth of allocated device memory during a call, at its highest."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def gpu_step_rows(device: str) -> list[Row]:
    """Activation memory of a Qwen2-7B step, measured on few layers, then extrapolated."""
    few, many, short, long = 1, 3, 8_192, 16_384
    peaks = {
        (n, tokens): gpu_peak_bytes(training_step(n, tokens, device))
        for n, tokens in ((few, short), (few, long), (many, long))
    }
    a_layer = (peaks[many, long] - peaks[few, long]) / (many - few) / long
    a_token = (peaks[few, long] - peaks[few, short]) / (long - short) - few * a_layer
    fixed = peaks[few, short] - short * (a_token + few * a_layer)
    memory = torch.cuda.get_device_properties(device).total_memory
    longest = (0.95 * memory - fixed) / (a_token + 28 * a_layer)
    cells = f"{a_layer / 1024:.1f} KiB a layer + {a_token / 1024:.1f} KiB + {fixed / GIB:.2f} GiB"
    return [
        Row("Qwen2-7B step, activation memory a token (measured)", cells),
        Row(
            "  tokens that fit with all 28 layers, weights offloaded", f"{longest:,.0f} (computed)"
        ),
    ]


def training_step(num_layers: int, tokens: int, device: str) -> Callable[[], None]:
    """A forward and backward pass of the 7B shape with few layers, its gradients preallocated."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    from longva_ray.ring.hf import NAME, register, ring_inputs
    from longva_ray.ring.keep import keep_ring_forward

    register()
    config = Qwen2Config(
        vocab_size=152_064,
        hidden_size=3_584,
        intermediate_size=18_944,
        num_hidden_layers=num_layers,
        num_attention_heads=28,
        num_key_value_heads=4,
    )
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=NAME
        )
    model.train().activation_checkpointing_enable(
        {"use_reentrant": False, "context_fn": keep_ring_forward}
    )
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ring = Ring(layout=ZigzagLayout(document_lengths=(tokens,), world_size=1))
    ids = torch.randint(config.vocab_size, (1, tokens), device=device)

    def step() -> None:
        hidden = model.model(input_ids=ids, **ring_inputs(model, ring)).last_hidden_state
        linear_cross_entropy(hidden, model.lm_head.weight, ids).backward()

    return step
