"""Unmodified Qwen2 and Llama on a ring against one process, and the guards around it."""

from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from ring_reference import relative_error
from torch.nn import functional as F
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from worker_pool import WorkerPool

from longva_ray.lm.loss import linear_cross_entropy
from longva_ray.ring.attention import Ring
from longva_ray.ring.hf import NAME, register, ring_inputs
from longva_ray.ring.keep import keep_ring_forward
from longva_ray.ring.layout import IGNORE_INDEX, ZigzagLayout, next_token_labels
from longva_ray.ring.mesh import RingMesh, make_mesh

# What each data-parallel ring reads: packed documents of different lengths, none divisible by
# anything.
SEQUENCES = ((13, 1, 24), (30, 11))


WORDS, LAYERS = 67, 2


TOLERANCE = 1e-5


def tiny(family: str, attention: str = "sdpa", **changes: Any) -> PreTrainedModel:
    """Two layers with grouped-query attention; the same weights in every process."""
    config_class, model_class = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }[family]
    settings = {
        "vocab_size": WORDS,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    torch.manual_seed(0)
    config = config_class(**(settings | changes))
    model = model_class._from_config(config, attn_implementation=attention)
    for (
        parameter
    ) in model.parameters():  # away from the small initialisation, where everything is alike
        torch.nn.init.normal_(parameter, std=0.3)
    return model.train()


def token_ids(documents: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(documents))
    return torch.randint(WORDS, (1, sum(documents)), generator=generator)


class Result(NamedTuple):
    loss: float
    logits: list[torch.Tensor]
    """One sequence each."""
    grads: dict[str, torch.Tensor]


def one_process(family: str, num_sequences: int) -> Result:
    """Each document run by itself under SDPA: the most literal reading of packing."""
    model, sequences = tiny(family), SEQUENCES[:num_sequences]
    losses, logits, count = [], [], 0
    for documents in sequences:
        parts = [model(ids).logits for ids in token_ids(documents).split(documents, dim=1)]
        logits.append(torch.cat([part.detach() for part in parts], dim=1))
        for part, ids in zip(parts, token_ids(documents).split(documents, dim=1), strict=True):
            losses.append(F.cross_entropy(part[0, :-1], ids[0, 1:], reduction="sum"))
            count += ids.shape[1] - 1
    loss = torch.stack(losses).sum() / count
    loss.backward()
    return Result(loss.item(), logits, {n: p.grad for n, p in model.named_parameters()})


def mesh_of(group: dist.ProcessGroup, data_size: int, ring_size: int) -> RingMesh:
    if dist.get_world_size(group) == dist.get_world_size():
        return make_mesh(ring_size=ring_size, data_size=data_size)
    assert 1 in (data_size, ring_size)
    rank = dist.get_rank(group)
    return RingMesh(
        data_size=data_size,
        data_rank=rank if data_size > 1 else 0,
        ring_size=ring_size,
        ring_rank=rank if ring_size > 1 else 0,
        ring_group=group if ring_size > 1 else None,
        world_group=group,
    )


def plain_loss(
    logits: torch.Tensor, labels: torch.Tensor, group: dist.ProcessGroup | None
) -> torch.Tensor:
    """The local share of the mean; shares add up to the loss."""
    count = (labels != IGNORE_INDEX).sum()
    dist.all_reduce(count, group=group)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / count


def train_step(
    group: dist.ProcessGroup,
    family: str,
    data_size: int,
    ring_size: int,
    schedule: str,
    checkpointing: str,
    tiled: bool,
) -> tuple[float, int, torch.Tensor, dict[str, torch.Tensor]]:
    """Job: loss, which sequence, local logits, gradients summed over all ranks."""
    register()
    model = tiny(family, NAME)
    mesh = mesh_of(group, data_size, ring_size)
    if checkpointing != "off":
        kwargs: dict[str, Any] = {"use_reentrant": False}
        if checkpointing == "kept":
            kwargs["context_fn"] = keep_ring_forward
        model.activation_checkpointing_enable(kwargs)
    documents = SEQUENCES[mesh.data_rank]
    layout = ZigzagLayout(document_lengths=documents, world_size=ring_size)
    ring = Ring(layout=layout, group=mesh.ring_group, schedule=schedule)
    ids = token_ids(documents)
    labels = layout.split(next_token_labels(ids, layout), ring.rank, dim=1, pad_value=IGNORE_INDEX)
    local_ids = layout.split(ids, ring.rank, dim=1, pad_value=0)
    hidden = model.model(input_ids=local_ids, **ring_inputs(model, ring)).last_hidden_state
    logits = model.lm_head(hidden)
    if tiled:
        weight = model.lm_head.weight
        loss = linear_cross_entropy(
            hidden, weight, labels, group=mesh.world_group, gradients="sum", tile_tokens=5
        )
        whole_loss = loss.item()
    else:
        loss = plain_loss(logits, labels, mesh.world_group)
        total = loss.detach().clone()
        dist.all_reduce(total, group=mesh.world_group)
        whole_loss = total.item()
    loss.backward()
    grads = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        dist.all_reduce(parameter.grad, group=mesh.world_group)
        grads[name] = parameter.grad
    return whole_loss, mesh.data_rank, logits.detach(), grads if dist.get_rank(group) == 0 else {}


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize(("data_size", "ring_size"), [(1, 2), (2, 1), (2, 2)], ids=lambda n: str(n))
@pytest.mark.parametrize("schedule", ["ring", "all_gather"])
@pytest.mark.parametrize("checkpointing", ["off", "plain", "kept"])
@pytest.mark.parametrize("tiled", [True, False], ids=["tiled", "untiled"])
def test_training_step_equals_one_process(
    pool: WorkerPool,
    family: str,
    data_size: int,
    ring_size: int,
    schedule: str,
    checkpointing: str,
    tiled: bool,
) -> None:
    wanted = one_process(family, data_size)
    world = data_size * ring_size
    results = pool.run(
        train_step, world, family, data_size, ring_size, schedule, checkpointing, tiled
    )
    assert all(abs(loss - wanted.loss) <= TOLERANCE * wanted.loss for loss, *_ in results)
    for sequence, documents in enumerate(SEQUENCES[:data_size]):
        layout = ZigzagLayout(document_lengths=documents, world_size=ring_size)
        shards = [logits for _, row, logits, _ in results if row == sequence]
        assert relative_error(layout.merge(shards, dim=1), wanted.logits[sequence]) <= TOLERANCE
    grads = results[0][3]
    assert grads.keys() == wanted.grads.keys()
    errors = {name: relative_error(grads[name], wanted.grads[name]) for name in grads}
    assert max(errors.values()) <= TOLERANCE, errors


def count_transfers(group: dist.ProcessGroup, schedule: str, checkpointing: str) -> int:
    """Job: how often this rank communicates for attention in one training step."""
    names = ("batch_isend_irecv", "all_gather_single", "reduce_scatter_single")
    originals = {name: getattr(dist, name) for name in names}
    calls = 0

    def counting(name: str) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            return originals[name](*args, **kwargs)

        return wrapper

    for name in names:
        setattr(dist, name, counting(name))
    try:
        train_step(group, "qwen2", 1, 2, schedule, checkpointing, True)
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)
    return calls


@pytest.mark.parametrize(
    ("schedule", "forward", "backward"), [("ring", 1, 1 + 2), ("all_gather", 1, 2)]
)
def test_checkpointing_does_not_run_the_ring_twice(
    pool: WorkerPool, schedule: str, forward: int, backward: int
) -> None:
    """Two ranks: one exchange of keys each way, and two hops that bring their gradients home."""
    once = [LAYERS * (forward + backward)] * 2
    twice = [LAYERS * (2 * forward + backward)] * 2
    assert pool.run(count_transfers, 2, schedule, "off") == once
    assert pool.run(count_transfers, 2, schedule, "kept") == once
    assert pool.run(count_transfers, 2, schedule, "plain") == twice


@pytest.fixture
def ring() -> Ring:
    register()
    return Ring(layout=ZigzagLayout(document_lengths=(8,), world_size=1))


IDS = torch.arange(8)[None]


def test_a_built_in_implementation_never_gets_a_share(ring: Ring) -> None:
    model = tiny("qwen2", "sdpa")
    with pytest.raises(ValueError, match=r"is 'sdpa', which would compute something else"):
        ring_inputs(model, ring)
    model.set_attn_implementation(NAME)
    assert model(IDS, **ring_inputs(model, ring)).logits.shape == (1, 8, WORDS)
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match=r"is 'eager'"):
        ring_inputs(model, ring)


def test_the_ring_must_be_named(ring: Ring) -> None:
    with pytest.raises(ValueError, match="ring_inputs"):
        tiny("qwen2", NAME)(IDS, use_cache=False)


@pytest.mark.parametrize("positions", [None, IDS + 1, IDS[:, :1]], ids=["none", "shifted", "one"])
def test_wrong_positions_are_refused(positions: torch.Tensor | None) -> None:
    register()
    ring = Ring(layout=ZigzagLayout(document_lengths=(3, 5), world_size=1))
    model = tiny("llama", NAME)
    with pytest.raises(ValueError, match="position_ids"):
        model(IDS, position_ids=positions, ring=ring, use_cache=False)


def test_equal_positions_in_another_tensor_are_accepted(ring: Ring) -> None:
    model = tiny("llama", NAME)
    inputs = ring_inputs(model, ring)
    moved = inputs | {"position_ids": inputs["position_ids"].clone()}
    assert torch.equal(model(IDS, **moved).logits, model(IDS, **inputs).logits)


def test_masks_that_hide_are_refused_and_masks_of_ones_pass(ring: Ring) -> None:
    model = tiny("qwen2", NAME)
    inputs = ring_inputs(model, ring)
    ones = torch.ones(1, 8, dtype=torch.long)
    assert torch.equal(
        model(IDS, attention_mask=ones, **inputs).logits, model(IDS, **inputs).logits
    )
    padded = ones.clone()
    padded[:, -1] = 0
    with pytest.raises(ValueError, match="takes no padding mask"):
        model(IDS, attention_mask=padded, **inputs)
    prepared = torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match=r"cannot honour \['attention_mask'\]"):
        model(IDS, attention_mask=prepared, **inputs)


def test_a_model_that_is_not_causal_is_refused(ring: Ring) -> None:
    model = tiny("llama", NAME, is_causal=False)
    with pytest.raises(ValueError, match="shows tokens their successors"):
        model(IDS, **ring_inputs(model, ring))
    model = tiny("llama", NAME)
    with pytest.raises(ValueError, match="shows tokens their successors"):
        model(IDS, is_causal=False, **ring_inputs(model, ring))
    model.model.layers[0].self_attn.is_causal = False
    with pytest.raises(ValueError, match=r"cannot honour \['is_causal=False'\]"):
        model(IDS, **ring_inputs(model, ring))


def test_dropout_windows_and_caches_are_refused(ring: Ring) -> None:
    model = tiny("qwen2", NAME, attention_dropout=0.1)
    with pytest.raises(ValueError, match=r"cannot honour \['dropout'\]"):
        model(IDS, **ring_inputs(model, ring))
    assert model.eval()(IDS, **ring_inputs(model, ring)).logits.isfinite().all()
    model = tiny("qwen2", NAME, use_sliding_window=True, sliding_window=4, max_window_layers=0)
    with pytest.raises(ValueError, match=r"cannot honour \['sliding_window'\]"):
        model(IDS, **ring_inputs(model, ring))
    model = tiny("qwen2", NAME).eval()
    cache = DynamicCache(config=model.config)
    inputs = ring_inputs(model, ring)
    model(IDS, past_key_values=cache, **inputs)
    with pytest.raises(ValueError, match="no KV cache: 8 queries but 16 keys"):
        model(IDS, past_key_values=cache, **inputs)


@pytest.mark.parametrize("keyword", ["softcap", "s_aux", "position_bias", "cu_seq_lens_q"])
def test_other_attention_requests_are_refused(ring: Ring, keyword: str) -> None:
    model = tiny("qwen2", NAME)
    with pytest.raises(ValueError, match=f"cannot honour .'{keyword}'"):
        model(IDS, **ring_inputs(model, ring), **{keyword: torch.ones(1)})


def test_output_attentions_are_refused(ring: Ring) -> None:
    model = tiny("qwen2", NAME)
    with pytest.raises(ValueError, match="output_attentions"):
        model(IDS, **ring_inputs(model, ring), output_attentions=True)
