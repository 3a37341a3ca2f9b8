"""docs/real-weights.md from beginning to end, on small weights in the released layout.

The commands are those of the page, on the CPU and with shorter haystacks and trainings. The
downloads and the server are left out; of the benchmarks, only the commands are made.
"""

import json
import re
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from counting_video import write_counting_video
from preference_world import pair
from released_layout import Released
from repository import REPOSITORY
from run_job import run_job
from transformers import CLIPVisionConfig
from vision_world import write_image

from longva_ray import cli
from longva_ray.lm.layout import load_longva_config
from longva_ray.shards.store import ShardStore

PAGE = REPOSITORY / "docs" / "real-weights.md"

SMALL = {
    "encode": {"encoder-gpus": 0, "encoder-cpus": 0.5, "decode-cpus": 0.5},
    "vniah": {
        **{"worker-gpus": 0, "worker-cpus": 0.5, "max-workers": 1},
        **{"frames": (2, 4), "depths": (0, 1)},
    },
    "questions": {"worker-gpus": 0, "worker-cpus": 0.5, "max-workers": 1},
    "preferences": {"task-gpus": 0, "task-cpus": 0.5},
    "prefer": {
        **{"num-workers": 1, "ring-size": 1, "gpus-per-worker": 0, "cpus-per-worker": 0.5},
        **{"steps": 2, "sequences-per-step": 1, "zero-stage": 0, "dtype": "float32"},
        **{"max-failures": 0, "offload": False, "offload-activations": False},
    },
}
"""What a machine without a GPU adds to each group of settings."""

JOBS = {
    "encode_videos": ("encode",),
    "eval_vniah": ("encode", "vniah"),
    "eval_questions": ("encode", "questions"),
    "prepare_preferences": ("encode", "preferences"),
    "prefer": ("prefer",),
    "benchmarks": (),
}


def commands(data: Path) -> list[list[str]]:
    """Words of every command of the page that runs a job or `longva`, from the name of that on."""
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").replace("$DATA", str(data)).splitlines()
    words = [shlex.split(line.removeprefix("python ")) for line in lines]
    return [each for each in words if each[0] == "longva" or each[0].startswith("jobs/")]


def write_inputs(data: Path) -> None:
    """What the page downloads or asks for."""
    tower = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=336,
        patch_size=14,
    )
    released = Released(data, tower)
    released.write(tower=True, shards=2)
    released.path.rename(data / "LongVA-7B")
    write_image(data / "picture.png", 2, 1, seed=0)
    write_counting_video(data / "film.mp4", num_frames=50, fps=10)
    (data / "v_niah_needles").mkdir()
    needle = {
        "image": {"bytes": (data / "picture.png").read_bytes(), "path": None},
        "question": "What is hidden here?",
        "answer": "A",
    }
    table = pa.Table.from_pylist([needle])
    pa.parquet.write_table(table, data / "v_niah_needles" / "test-00000-of-00001.parquet")
    question = {
        **{"id": 1, "video": "film.mp4", "question": "What is it?"},
        **{"options": ["A cat.", "A dog."], "answer": "A"},
    }
    (data / "questions.jsonl").write_text(json.dumps(question) + "\n")
    for name in ("one", "two", "three"):
        folder = data / "hound" / "frames" / name
        folder.mkdir(parents=True)
        for number in range(3):
            write_image(folder / f"{number}.jpeg", 1, 1, seed=number)
    pairs = [pair(name, name, "What?", "Noise.", "A cat.") for name in ("one", "two", "three")]
    (data / "hound" / "pairs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in pairs))


def options(groups: tuple[str, ...]) -> list[str]:
    flags = []
    for group in groups:
        for name, value in SMALL[group].items():
            if value is False:
                flags.append(f"--{group}.no-{name}")
                continue
            values = value if isinstance(value, tuple) else (value,)
            flags += [f"--{group}.{name}", *map(str, values)]
    return flags


def test_every_command_of_the_page_works(
    ray_cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_inputs(tmp_path)
    ran = []
    for name, *arguments in commands(tmp_path):
        ran.append(name if name != "longva" else arguments[0])
        if name != "longva":
            job = Path(name).stem
            dry = ["--dry-run"] if job == "benchmarks" else []
            assert run_job(job, *arguments, *options(JOBS[job]), *dry) == 0, name
        elif arguments[0] != "serve":
            command, parsed = cli.parse(arguments)
            assert command.run(parsed) == 0, arguments
    assert ran == [
        *("ask", "jobs/encode_videos.py", "verify", "jobs/eval_vniah.py"),
        *("jobs/eval_questions.py", "jobs/benchmarks.py", "serve"),
        *("jobs/prepare_preferences.py", "jobs/prefer.py", "ask"),
    ]
    encoded = [record.num_frames for record in ShardStore(tmp_path / "shards").records()]
    assert encoded
    scores = json.loads((tmp_path / "vniah" / "vniah.json").read_text())
    assert [cell["exact"]["trials"] for cell in scores["models"][0]["cells"]] == [1, 1, 1, 1]
    assert load_longva_config(tmp_path / "runs" / "dpo" / "final").grid_rule == "released"
