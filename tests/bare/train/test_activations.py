"""Checkpointing by one entry: same gradients, the ring runs once, offload never crashes."""

import functools
import logging

import pytest
import torch
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from longva_ray.lm.tiled_mlp import tile_mlps
from longva_ray.ring.attention import Ring, ring_attention
from longva_ray.ring.cpu import AtenCpu
from longva_ray.ring.hf import NAME, register, ring_inputs
from longva_ray.ring.keep import keep_ring_forward
from longva_ray.ring.layout import ZigzagLayout
from longva_ray.train.activations import checkpoint_activations

RING = Ring(layout=ZigzagLayout(document_lengths=(13, 11), world_size=1))


IDS = torch.arange(24)[None] % 64


LAYERS = 2


def make_model() -> PreTrainedModel:
    register()
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=40,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return Qwen2ForCausalLM._from_config(config, attn_implementation=NAME).train()


def gradients(model: PreTrainedModel) -> list[torch.Tensor]:
    model(IDS, labels=IDS, **ring_inputs(model, RING)).loss.backward()
    return [p.grad for p in model.parameters()]


@pytest.fixture
def forward_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one entry with each forward call of the block kernel."""
    calls: list[int] = []
    original = AtenCpu.forward

    def counted(self: AtenCpu, *args: object, **kwargs: object) -> object:
        calls.append(1)
        return original(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(AtenCpu, "forward", counted)
    return calls


@pytest.mark.parametrize("offload", [False, True], ids=["", "offload"])
@pytest.mark.parametrize("keep_ring", [False, True], ids=["", "keep"])
@pytest.mark.parametrize("tiled", [False, True], ids=["", "tiled"])
def test_gradients_are_the_same(
    offload: bool, keep_ring: bool, tiled: bool, forward_calls: list[int]
) -> None:
    plain = make_model()
    model = make_model()
    if tiled:
        for each in (plain, model):
            tile_mlps(each, tile_tokens=5, min_tokens=1)
    wanted = gradients(plain)
    forward_calls.clear()
    checkpoint_activations(model, keep_ring=keep_ring, offload=offload)
    got = gradients(model)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    assert len(forward_calls) == LAYERS * (1 if keep_ring else 2)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="offloads for real")
def test_without_an_accelerator_offload_says_that_it_does_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        checkpoint_activations(make_model(), offload=True)
    assert [r.message for r in caplog.records if "not offloaded" in r.message]


def test_what_the_ring_computed_goes_through_the_hooks() -> None:
    """Packed when the region runs, unpacked when it runs again, and nothing else."""
    packed: list[torch.Tensor] = []
    unpacked: list[int] = []

    def pack(tensor: torch.Tensor) -> int:
        packed.append(tensor.clone())
        return len(packed) - 1

    def unpack(place: int) -> torch.Tensor:
        unpacked.append(place)
        return packed[place]

    def attend(x: torch.Tensor) -> torch.Tensor:
        return ring_attention(x, x.sin(), x * x, RING)

    def gradient(context_fn: object) -> torch.Tensor:
        torch.manual_seed(0)
        x = torch.randn(1, 2, 24, 8, requires_grad=True)
        checkpoint(attend, x, use_reentrant=False, context_fn=context_fn).square().sum().backward()
        assert x.grad is not None
        return x.grad

    wanted = gradient(keep_ring_forward)
    for hooks in (saved_tensors_hooks(pack, unpack), save_on_cpu(pin_memory=True)):
        assert torch.equal(gradient(functools.partial(keep_ring_forward, hooks)), wanted)
    assert [tuple(tensor.shape) for tensor in packed] == [(1, 24, 2, 8), (1, 2, 24)]
    assert unpacked == [0, 1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_offload_frees_device_memory_and_changes_no_bit() -> None:
    ring = Ring(layout=ZigzagLayout(document_lengths=(4096,), world_size=1))
    ids = torch.zeros(1, 4096, dtype=torch.long, device="cuda")
    results, held = [], []
    for offload in (False, True):
        model = make_model().to("cuda", torch.bfloat16)
        checkpoint_activations(model, offload=offload)
        before = torch.cuda.memory_allocated()
        hidden = model.model(input_ids=ids, **ring_inputs(model, ring)).last_hidden_state
        held.append(torch.cuda.memory_allocated() - before)
        hidden.float().square().sum().backward()
        results.append([p.grad for p in model.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert held[1] < held[0]
