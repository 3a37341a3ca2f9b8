"""The ceiling: what a model reads of needles alone, and how loudly a low one is reported."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from longva_ray.evaluate.ledger import TrialOutcome
from longva_ray.evaluate.subjects import Subject
from longva_ray.evaluate.video.ceiling import say_ceiling
from longva_ray.evaluate.video.drawn import draw_needles, make_haystack
from longva_ray.evaluate.video.needles import digest, encode_needles, read_needles
from longva_ray.evaluate.video.report import (
    average_over_seeds,
    describe_vniah,
    draw_vniah,
    summarise,
)
from longva_ray.evaluate.video.vniah import EncodedNeedles, VniahWorker, plan_alone, plan_groups
from longva_ray.recipes import get_recipe
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.settings.needles import VniahConfig
from longva_ray.tiny.videos import write_needles

CONFIG = dataclasses.replace(get_recipe("tiny").vniah, frames=(3,), depths=(0.5,), seed=1)


class Darkness:
    """A haystack of black frames."""

    def tokens(self, num_frames: int) -> torch.Tensor:
        return torch.zeros(num_frames, 4, 128)


@pytest.fixture(scope="module", params=["cards", "tiny"])
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def outcomes(
    world: str, tiny_checkpoint: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, TrialOutcome]:
    """What longva-tiny answers about the drawn needles of a world, alone and among dark frames."""
    config = dataclasses.replace(CONFIG, world=world)
    drawn = draw_needles(config, tmp_path_factory.mktemp("needles"))
    images = [needle.image_YXC for needle in drawn]
    needles = EncodedNeedles(
        tokens_KQD=encode_needles(tiny_checkpoint, images, EncodeConfig(dtype="float32")),
        questions=tuple(needle.question for needle in drawn),
        answers=tuple(needle.answer for needle in drawn),
    )
    subject = Subject(name="model", path=tiny_checkpoint, dtype="float32")
    worker = VniahWorker(subject, config, Darkness(), needles)  # type: ignore[arg-type]
    alone = plan_alone(len(drawn))
    for trial in alone:
        (seen_FQD,) = worker._question(trial).items
        assert torch.equal(seen_FQD, needles.tokens_KQD[trial.needle : trial.needle + 1])
    groups = [alone, *plan_groups(config, len(drawn))]
    return {key: o for group in groups for key, o in worker(group).items()}


def report_of(found: dict[str, Any]) -> dict[str, Any]:
    named = {"name": "model", "path": "m", "fingerprint": "f", "rope_base": 1.0}
    model = named | {"training_frames": 2.0, "prefix_reuse": None} | found
    settings: dict[str, Any] = {"settings": {}, "versions": {}}
    return settings | {"models": [model], "training_free": []}


def test_a_model_that_cannot_read_the_needles_is_told_from_one_that_can(
    world: str, outcomes: dict[str, TrialOutcome], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    say_ceiling("model", outcomes)
    found = summarise(list(outcomes.values()))
    described = describe_vniah(report_of(found))
    right, trials = (0, 5) if world == "cards" else (11, 12)
    assert found["ceiling"]["exact"]["trials"] == trials
    assert found["ceiling"]["exact"]["score"] * trials >= right
    assert sum(each["exact"] for each in found["needles_alone"]) >= right
    assert found["average"]["exact"]["trials"] == trials  # without the needles alone
    assert found["guess_floor"]["exact"]["trials"] == trials
    (cell,) = found["cells"]
    assert (cell["frames"], cell["depth"]) == (3, 0.5)
    assert (cell["Num. Frame"], cell["Frame Depth"]) == (3, 50.0)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    for said in (described, caplog.text):
        assert "needles alone (ceiling), exact: " in said
        assert ("LOW CEILING: it reads 0 of 5 needles" in said) is (world == "cards")
    assert bool(warnings) is (world == "cards")


def test_groups_without_a_needle_alone_say_nothing(
    outcomes: dict[str, TrialOutcome], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    say_ceiling("model", {key: o for key, o in outcomes.items() if o["num_frames"]})
    assert not caplog.records


def test_figures_and_averages_have_the_ceiling(
    outcomes: dict[str, TrialOutcome], tmp_path: Path
) -> None:
    found = summarise(list(outcomes.values()))
    (pooled,) = average_over_seeds([report_of(found)] * 2)["models"]
    score, trials = (found["ceiling"]["exact"][name] for name in ("score", "trials"))
    assert pooled["ceiling"]["exact"]["score"] == pytest.approx(score)
    assert pooled["ceiling"]["exact"]["trials"] == 2 * trials
    assert "needles_alone" not in pooled
    earlier = {name: value for name, value in found.items() if name != "ceiling"}
    for number, model in enumerate((found, earlier)):  # reports had no ceiling once
        draw_vniah([report_of(model)], tmp_path / f"{number}.png")
    assert (tmp_path / "0.png").read_bytes() != (tmp_path / "1.png").read_bytes()


def test_the_tiny_world_is_drawn_as_it_was_for_the_published_test(tmp_path: Path) -> None:
    pytest.importorskip("av")
    write_needles(tmp_path / "published", count=12, seed=1001)
    wanted = read_needles(tmp_path / "published" / "needles.json")
    assert digest(draw_needles(CONFIG, tmp_path)) == digest(wanted)
    assert digest(draw_needles(CONFIG, tmp_path)) == digest(wanted)  # from the folder
    cards = VniahConfig(frames=(3,), seed=1)
    places = {make_haystack(config, tmp_path) for config in (CONFIG, cards)}
    assert len({Path(place).read_bytes() for place in places}) == 2
    assert (tmp_path / "haystack-3-seed1.mp4").exists()
