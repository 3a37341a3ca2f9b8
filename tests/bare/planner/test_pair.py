"""The plan of preference tuning against measured steps of its own module, and its weights."""

from typing import Any

import pytest
from memory_pair import measured_pair
from transformers import CLIPVisionConfig, Qwen2Config

from longva_ray.lm.longva_config import LongVAConfig
from longva_ray.planner.activations import activation_terms
from longva_ray.planner.memory import at_the_peak, peak, terms
from longva_ray.planner.setup import ModelShape, Setup, VisionShape
from longva_ray.planner.vision import Trained
from longva_ray.settings.training import PreferConfig

LENGTHS = (288, 800)


def config_of(*, tower: int = 16, layers: int = 4, **text: Any) -> LongVAConfig:
    """A tower of that width, four times as wide inside, and a small language model."""
    shape: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 320,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    text_config = Qwen2Config(**(shape | text))
    return LongVAConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=tower,
            intermediate_size=4 * tower,
            num_hidden_layers=layers,
            num_attention_heads=2,
            image_size=56,
            patch_size=14,
        ),
        text_config=text_config,
        image_token_id=text_config.vocab_size,
        video_token_id=text_config.vocab_size + 1,
    )


def setup_of(config: LongVAConfig, **changes: Any) -> Setup:
    plain = {"zero_stage": 0, "offload": False, "dtype": "float32", "offload_activations": False}
    plain |= {"gpus_per_worker": 0, "num_workers": 1, "sequences_per_step": 1}
    return Setup(
        model=ModelShape.of(config.text),
        vision=VisionShape.of(config),
        gpus=1,
        ring_size=1,
        train=PreferConfig(**(plain | changes)),
        fused=False,  # as on CPUs
    )


LARGE_TOWER = {"tower": 256, "layers": 8}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "language model": ({}, {}, "mlp"),
    "live reference": ({}, {"reference": "live"}, "mlp"),
    "small tower, live reference": ({}, {"train": "all", "reference": "live"}, "mlp"),
    "not checkpointed": ({}, {"reference": "live", "checkpoint_activations": False}, "mlp"),
    "large tower at once": (LARGE_TOWER, {"train": "all", "grids_per_forward": 1000}, "tower"),
    "large tower kept": (LARGE_TOWER, {"train": "all", "checkpoint_activations": False}, "mlp"),
    "projector alone": (
        {"hidden_size": 128, **LARGE_TOWER},
        {"train": "all", "vision_learning_rate": 0.0},
        "mlp",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_planned_bytes_are_measured_bytes(case: str) -> None:
    shape, changes, moment = CASES[case]
    config = config_of(**shape)
    setup = setup_of(config, **changes)
    measured = [measured_pair(setup, config, length) for length in LENGTHS]
    found = [activation_terms(setup, length) for length in LENGTHS]
    planned = [peak(each)[0] for each in found]
    assert at_the_peak(found[1])[-1].moment == moment
    slope = (planned[1] - planned[0]) / (measured[1] - measured[0])
    assert slope == pytest.approx(1, rel=0.05), (measured, planned)
    assert planned[1] == pytest.approx(measured[1], rel=0.05)


@pytest.mark.parametrize("grids_per_forward", [4, 16])
def test_a_tower_in_several_passes_is_bounded(grids_per_forward: int) -> None:
    config = config_of(**LARGE_TOWER)
    setup = setup_of(config, train="all", grids_per_forward=grids_per_forward)
    planned = peak(activation_terms(setup, LENGTHS[0]))[0]
    assert planned == pytest.approx(measured_pair(setup, config, LENGTHS[0]), rel=0.05)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_loss_of_two_answers_holds_two_gradients(dtype: str) -> None:
    """Where the vocabulary is large, and answers are all that there is."""
    config = config_of(vocab_size=16_384, hidden_size=128)
    setup = setup_of(config, dtype=dtype, zero_stage=0 if dtype == "float32" else 1)
    for length in (64, 128):
        found = activation_terms(setup, length)
        assert at_the_peak(found)[-1].moment == "loss"
        measured = measured_pair(setup, config, length, answer=length // 2 - 5)
        assert peak(found)[0] == pytest.approx(measured, rel=0.1)


def test_weights_by_what_becomes_of_them() -> None:
    config = config_of()
    language, vision = ModelShape.of(config.text).parameters, VisionShape.of(config)
    both = vision.tower + vision.projector
    expected = {
        (): (language, both),
        (("reference", "live"),): (language, language + both),
        (("train", "all"),): (language + both, 0),
        (("train", "all"), ("vision_learning_rate", 0.0), ("reference", "live")): (
            language + vision.projector,
            language + vision.tower,
        ),
    }
    for changes, (learning, frozen) in expected.items():
        setup = setup_of(config, **dict(changes))
        assert Trained.of(setup) == Trained(learning=learning, frozen=frozen)
        states = {term.name: term.gpu for term in terms(setup, 1)}
        assert states["weights"] == 4 * learning
        assert states.get("weights that do not learn", 0) == 4 * frozen
        assert states["optimizer and master weights"] == 8 * learning
