"""Everything of a run at a URI: shards, checkpoints, metrics, result."""

import json
from pathlib import Path

import pyarrow.fs
import pytest
import ray.cloudpickle
import training_world
from training_world import settings, write_base

from longva_ray.data.text.pipeline import prepare_text
from longva_ray.evaluate.text.haystack import SHIPPED
from longva_ray.files.places import child, open_place
from longva_ray.settings.data import TextDataConfig
from longva_ray.train.run.launch import train
from longva_ray.train.run.trackers import METRICS
from longva_ray.train.stages.text import TextStage


def test_a_run_in_s3_is_made_and_goes_on_there(
    ray_cluster: str, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    ray.cloudpickle.register_pickle_by_value(training_world)
    base = write_base(tmp_path / "base")
    shards, runs = child(s3_bucket, "tokens"), child(s3_bucket, "runs")
    config = TextDataConfig(sequence_length=128, task_cpus=0.5)
    prepare_text([str(SHIPPED)], output=shards, checkpoint=base, config=config)
    for steps in (2, 4):
        longer = settings(steps=steps, num_workers=1, ring_size=1)
        stage = TextStage(longer, base=base, shards=shards)
        outcome = train(stage, longer, storage=runs, name="run", documents={"a.json": {}})
        assert outcome.status == "finished", outcome.message
    filesystem, root = open_place(child(runs, "run"))
    assert [record["step"] for record in metrics(filesystem, root)] == [1, 2, 3, 4]
    inside = filesystem.get_file_info(pyarrow.fs.FileSelector(f"{root}/final"))
    assert {"model.safetensors", "tokenizer.json", "a.json"} <= {info.base_name for info in inside}
    kept = filesystem.get_file_info(f"{root}/step_0000004/progress.json")
    assert kept.type == pyarrow.fs.FileType.File


def metrics(filesystem: pyarrow.fs.FileSystem, root: str) -> list[dict[str, float]]:
    with filesystem.open_input_stream(f"{root}/{METRICS}") as file:
        return [json.loads(line) for line in file.read().splitlines()]
