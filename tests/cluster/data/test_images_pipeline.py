"""Preparing images on a real Ray cluster: everything is accounted for, once, and the same again."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from vision_world import conversation, write_base, write_samples

from longva_ray.data.images.pipeline import prepare_images
from longva_ray.data.images.shards import VisionShardError, VisionShards
from longva_ray.settings.data import ImageDataConfig

CONFIG = ImageDataConfig(row_tokens=200, part_samples=3, task_cpus=0.5)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_base(tmp_path_factory.mktemp("base") / "longva")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five samples, and three that cannot be used."""
    path = write_samples(tmp_path_factory.mktemp("data"))
    (path.parent / "broken.png").write_bytes((path.parent / "e.png").read_bytes()[:2000])
    entries = json.loads(path.read_text())
    asked = conversation("<image>\nWhat?", "Noise.")
    entries.insert(1, {"id": "gone", "image": "gone.png", "conversations": asked})
    entries.insert(3, {"id": "broken", "image": "broken.png", "conversations": asked})
    entries.insert(5, {"id": "mute", "image": "a.png", "conversations": asked[:1]})
    path.write_text(json.dumps(entries))
    return path


def prepare(samples: Path, output: Path, base: str, config: ImageDataConfig = CONFIG) -> Path:
    prepare_images([str(samples)], output=str(output), checkpoint=base, config=config)
    return output


@pytest.fixture(scope="module")
def prepared(
    ray_cluster: str, samples: Path, base: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return prepare(samples, tmp_path_factory.mktemp("prepared") / "shards", base)


def content(folder: Path) -> dict[str, bytes]:
    """Everything but the manifest's list of versions and the like: bytes of all files."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def names_in(place: Path) -> set[str]:
    return {name for row in VisionShards(str(place)) for name in row.sample_ids}


def test_every_sample_is_written_once_or_named(prepared: Path) -> None:
    shards = VisionShards(str(prepared))
    rows = [shards[index] for index in range(len(shards))]
    written = [name for row in rows for name in row.sample_ids]
    assert sorted(written) == ["large", "one", "several", "text", "turns"]
    report = json.loads((prepared / "report.json").read_text())
    reasons = {each["sample_id"]: each["reason"] for each in report["left_out"]}
    assert sorted(reasons) == ["broken", "gone", "mute"]
    assert "gone.png does not exist" in reasons["gone"]
    assert "broken.png cannot be read" in reasons["broken"]
    assert "an answer last" in reasons["mute"]
    assert (report["samples"], report["written"]) == (8, 5)
    data = shards.metadata
    assert sum(data.row_tokens) == sum(len(row.input_ids_T) for row in rows) == report["tokens"]
    assert sum(data.row_grids) == sum(len(row.grids_GYXC) for row in rows) == report["grids"] == 16
    assert data.num_trained == sum(int(row.is_label_T.sum()) for row in rows)
    assert max(data.row_tokens) <= 200
    assert len(data.part_rows) == 3


def test_parallel_and_alone_give_the_same_bytes(
    prepared: Path, samples: Path, base: str, tmp_path: Path
) -> None:
    alone = prepare(samples, tmp_path / "alone", base, replace(CONFIG, max_tasks=1))
    assert content(alone) == content(prepared)
    other = prepare(samples, tmp_path / "other", base, replace(CONFIG, seed=1, held_out=2))
    written = [names_in(place) for place in (other, other / "held_out", prepared)]
    assert written[0] | written[1] == written[2]
    assert not written[0] & written[1]
    assert written[1], "a sample that can be used is held out"
    keys = [VisionShards(folder).metadata.content_key for folder in (other, prepared)]
    assert keys[0] != keys[1]


def test_finished_parts_stay(prepared: Path, samples: Path, base: str, tmp_path: Path) -> None:
    output = prepare(samples, tmp_path / "shards", base)
    (output / "vision_shards.json").unlink()
    (output / "part-00001.json").unlink()
    kept = (output / "part-00000.arrow").stat().st_mtime_ns
    replaced = (output / "part-00001.arrow").stat().st_mtime_ns
    prepare(samples, output, base)
    assert content(output) == content(prepared)
    assert (output / "part-00000.arrow").stat().st_mtime_ns == kept
    assert (output / "part-00001.arrow").stat().st_mtime_ns > replaced


def test_shards_that_are_there_are_left_alone(prepared: Path, samples: Path, base: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in prepared.iterdir()}
    prepare(samples, prepared, base)
    assert {path: path.stat().st_mtime_ns for path in prepared.iterdir()} == before
    with pytest.raises(VisionShardError, match="made with another seed;"):
        prepare(samples, prepared, base, replace(CONFIG, seed=1))
    fewer = samples.with_name("fewer.json")
    fewer.write_text(json.dumps(json.loads(samples.read_text())[1:]))
    with pytest.raises(VisionShardError, match="made with another set of samples;"):
        prepare(fewer, prepared, base)


def test_stopping_at_the_first_bad_sample(
    ray_cluster: str, samples: Path, base: str, tmp_path: Path
) -> None:
    with pytest.raises(VisionShardError, match=r"sample (gone|broken|mute): .*skip leaves"):
        prepare(samples, tmp_path / "shards", base, replace(CONFIG, on_error="stop"))
    with pytest.raises(VisionShardError, match="no folder of vision shards"):
        VisionShards(str(tmp_path / "shards"))


def test_nothing_but_bad_samples(ray_cluster: str, base: str, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"id": "void"}\n')
    with pytest.raises(VisionShardError, match="none of 1 samples can be used; the first is void"):
        prepare(tmp_path / "bad.jsonl", tmp_path / "shards", base)


def test_a_damaged_part_is_noticed_and_made_again(
    prepared: Path, samples: Path, base: str, tmp_path: Path
) -> None:
    output = prepare(samples, tmp_path / "shards", base)
    part = output / "part-00000.arrow"
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(
        VisionShardError, match=r"cut short.*delete the folder's vision_shards\.json"
    ):
        VisionShards(str(output))[0]
    (output / "vision_shards.json").unlink()
    prepare(samples, output, base)
    assert content(output) == content(prepared)
