"""The `longva` command: its help, its mistakes, and what needs no cluster."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from encoded_video import write_video
from pictures import exchanges_about, write_table
from token_shards import sequence, write_token_shards
from transformers import AutoConfig, AutoModelForCausalLM

from longva_ray import cli
from longva_ray.lm.load import load_longva
from longva_ray.shards.store import ShardStore
from longva_ray.tiny.base_model import write_base
from longva_ray.tiny.tower import NamingTower, save_tower, tower_config


def longva(*arguments: str) -> int:
    """A command in this process; its exit status."""
    command, options = cli.parse(arguments)
    return int(command.run(options))


def test_join_makes_a_model_to_align(tmp_path: Path) -> None:
    write_base(tmp_path / "text")
    language_model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "text"))
    language_model.save_pretrained(tmp_path / "text")
    save_tower(NamingTower(tower_config()), tower_config(), tmp_path / "tower")
    sources = [str(tmp_path / "text"), str(tmp_path / "tower")]
    new = tmp_path / "new"
    chosen = ["--encoding=anyres", "--dtype=float32", "--projector=align"]
    assert longva("join", *sources, str(new), *chosen) == 0
    model, processor = load_longva(new, dtype=torch.float32)
    assert (processor.encoding, model.config.projector) == ("anyres", "align")
    plain = tmp_path / "plain"  # what the umask makes of a file
    plain.touch()
    assert {file.stat().st_mode for file in new.iterdir()} == {plain.stat().st_mode}
    weights = language_model.state_dict()
    assert all(
        torch.equal(value, weights[name]) for name, value in model.language_model.named_parameters()
    )
    with pytest.raises(ValueError, match="exists already"):
        longva("join", *sources, str(new))


def test_verify_names_what_the_disk_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="no encoded videos"):
        longva("verify", str(tmp_path))
    store = ShardStore(tmp_path)
    for video_id in ("a" * 32, "b" * 32):
        tokens_FQD = write_video(store, num_frames=5, video_id=video_id)
    assert longva("verify", str(tmp_path)) == 0
    part = next((tmp_path / ("b" * 32)).rglob("*.arrow"))
    content = part.read_bytes()
    place = content.index(tokens_FQD.numpy().tobytes())
    part.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    assert longva("verify", str(tmp_path)) == 1
    printed = capsys.readouterr().out
    assert "2 of 2 videos and images are as written" in printed
    assert f"of video {'b' * 32} does not match its digest" in printed
    assert "1 of 2 videos and images are as written" in printed


def test_verify_reads_token_shards_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_token_shards(tmp_path, [[sequence(0), sequence(10)], [sequence(20)]])
    assert longva("verify", str(tmp_path)) == 0
    assert "2 of 2 parts of token shards are whole" in capsys.readouterr().out
    part = tmp_path / "part-00001.arrow"
    part.write_bytes(part.read_bytes()[:-8])
    assert longva("verify", str(tmp_path)) == 1
    printed = capsys.readouterr().out
    assert "part-00001.arrow has" in printed
    assert "1 of 2 parts of token shards are whole" in printed


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from longva_ray import cli\n"
        "try: cli.main()\n"
        "finally: print(sorted({'torch', 'ray', 'transformers', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *shown, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    for name, does in cli.COMMANDS.items():
        (line,) = [line for line in shown if f"\u2022 {name} " in line]
        assert does.split()[0] in line


@pytest.mark.parametrize("module", ["longva_ray", "longva_ray.cli"])
def test_it_runs_as_a_module_too(module: str) -> None:
    command = [sys.executable, "-m", module, "verify", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: longva verify")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_lists_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.parse([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: longva {name}" in capsys.readouterr().out


def test_ask_about_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    about_first = exchanges_about(write_table(tmp_path / "a picture.png"))[0]
    assert longva("ask", "a picture.png", about_first.question) == 0
    assert capsys.readouterr().out.strip() == about_first.answer
    assert longva("verify", "outputs/shards") == 0
    assert "1 of 1 videos and images are as written" in capsys.readouterr().out


def test_an_unknown_command_shows_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.parse(["dance"])
    assert ended.value.code not in (0, None)
    assert ", ".join(cli.COMMANDS) in " ".join(capsys.readouterr().err.split())


def test_the_recipe_gives_the_defaults_of_a_command() -> None:
    _, options = cli.parse(["ask", "a.mp4", "what?", "--recipe", "longva_7b"])
    assert (options.file, options.question, options.encode.dtype) == ("a.mp4", "what?", "bfloat16")
    _, options = cli.parse(["ask", "a.mp4", "what?", "--encode.micro-batch", "7"])
    assert (options.encode.micro_batch, options.encode.dtype) == (7, "float32")
