"""Mistakes in arguments are found before Ray starts, and a command ends quietly with its reader."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import ray
from pictures import encoded, noise
from repository import JOBS, PATIENCE_S, load_job
from training_world import write_base, write_shards

from longva_ray import cli
from longva_ray.options import parse


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(**_: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user may have: text, a video of no bytes, half an image, a folder of nothing, a model,
    shards."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "empty").mkdir()
    (folder / "some.txt").write_text("a b c")
    (folder / "some.mp4").touch()
    (folder / "cut.png").write_bytes(encoded(noise(60, 60))[:3000])
    write_shards(folder / "shards", write_base(folder / "model"))
    return folder


JOB_MISTAKES = [
    ("prepare_text", "--texts PLACE/missing.txt", "missing.txt does not exist"),
    ("prepare_text", "--texts PLACE/empty", "holds no files of a known kind"),
    ("prepare_text", "--texts PLACE/some.txt PLACE/some.txt", "named twice"),
    ("prepare_text", "--texts PLACE/some.txt --text.tokenizer PLACE/no", "no model '.*/no' here"),
    ("prepare_images", "--data PLACE/missing.json", "missing.json"),
    ("prepare_images", "--data PLACE/some.txt --model PLACE/empty", "empty has no config.json"),
    ("encode_videos", "--videos PLACE/missing.mp4", "no video '.*missing.mp4' here"),
    ("encode_videos", "--videos PLACE/empty", "no videos"),
    ("encode_videos", "--videos PLACE/some.mp4 --model PLACE/no", "no model '.*/no' here"),
    ("extend_text", "--name a --shards PLACE/missing", "missing"),
    ("extend_text", "--name a --shards PLACE/shards --model PLACE/no", "no model"),
    ("extend_text", "--name a --shards PLACE/shards", "tokenizer"),
    (
        "extend_text",
        "--name a --shards PLACE/shards --model PLACE/model --storage PLACE "
        "--extend.trackers mlflow",
        "tracker 'mlflow' cannot be imported",
    ),
    ("align_vision", "--stage all --name a --shards PLACE/shards --model PLACE/no", "no model"),
    (
        "align_vision",
        "--stage all --name a --shards PLACE/no --model PLACE/model",
        "no does not exist",
    ),
    ("eval_niah", "--models PLACE/model", "want name=path"),
    ("eval_niah", "--models a=PLACE/no", "no model '.*/no' here"),
    ("eval_niah", "--models a=PLACE/model --niah.essays PLACE/empty", "empty"),
    ("eval_vniah", "--models a=PLACE/model --vniah.frames 1000000", "is no LongVA checkpoint"),
    ("eval_vniah", "--models a=PLACE/model --videos PLACE/some.mp4", "is no LongVA checkpoint"),
    (
        "eval_vniah",
        "--models a=PLACE/model --videos PLACE/some.mp4 PLACE/no.mp4",
        "no.mp4 does not",
    ),
    ("extend_and_test", "--texts PLACE/missing --out PLACE/out", "missing has 0 .txt files"),
    ("serve", "--model PLACE/no", "no model '.*/no' here"),
]


@pytest.mark.parametrize(("job", "words", "told"), JOB_MISTAKES)
def test_a_job_finds_mistakes_before_it_starts_ray(
    place: Path, monkeypatch: pytest.MonkeyPatch, job: str, words: str, told: str
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    module = load_job(JOBS / f"{job}.py")
    options = parse(module.Options, words.replace("PLACE", str(place)).split())
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        module.main(options)


COMMAND_MISTAKES = [
    ("ask PLACE/missing.mp4 what?", "missing.mp4 does not exist"),
    ("ask PLACE/some.mp4 what?", r"some.mp4: is empty \(0 bytes\); want a video, or an image"),
    (
        "ask PLACE/some.txt what?",
        r"some.txt: is not a video .*begins with .*want a video, or an image",
    ),
    ("ask PLACE/cut.png what?", "cut.png cannot be read"),
    ("ask PLACE/some.mp4 what? --model PLACE/no", "no model '.*/no' here"),
    ("ask PLACE/some.mp4 what? --recipe smollm2", "smollm2 has no LongVA weights"),
    ("demo PLACE/missing.mp4", "missing.mp4 does not exist"),
    ("demo --recipe smollm2", "smollm2 has no LongVA weights"),
    ("serve --model PLACE/no", "no model '.*/no' here"),
]


@pytest.mark.parametrize(("words", "told"), COMMAND_MISTAKES)
def test_a_command_finds_mistakes_before_it_starts_ray(
    place: Path, monkeypatch: pytest.MonkeyPatch, words: str, told: str
) -> None:
    monkeypatch.chdir(place)
    command, options = cli.parse(words.replace("PLACE", str(place)).split())
    with pytest.raises(ValueError, match=told):
        command.run(options)


MUCH = (
    "from longva_ray.cluster.job import run_job; run_job(lambda: [print(n) for n in range(10**5)])"
)
ELSEWHERE = """
import os
from longva_ray.cluster.job import run_job
reader, writer = os.pipe()
os.close(reader)
run_job(lambda: os.write(writer, b"lost"))
"""


@pytest.mark.parametrize(
    "command",
    [
        [str(JOBS / "extend_text.py"), "--help"],
        ["-c", "from longva_ray.cli import main; main()", "--help"],
        ["-c", "from longva_ray.cli import main; main()", "verify", "--help"],
        ["-c", MUCH],
    ],
)
def test_a_command_ends_quietly_with_its_reader(command: Sequence[str]) -> None:
    assert read_nothing(command) == (141, "")


def test_a_pipe_that_breaks_elsewhere_is_told() -> None:
    code, told = read_nothing(["-c", ELSEWHERE], closed=False)
    assert (code, re.findall(r"^\w+Error", told, re.MULTILINE)) == (1, ["BrokenPipeError"])


def read_nothing(command: Sequence[str], *, closed: bool = True) -> tuple[int, str]:
    """Exit status and messages of a command whose output nobody reads."""
    running = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )
    assert running.stdout is not None
    if closed:
        running.stdout.close()
    _, told = running.communicate(timeout=PATIENCE_S)
    return running.returncode, told
