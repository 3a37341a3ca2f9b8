"""Options and configs: a mistake is an error that says what would have been right."""

import ast
import dataclasses
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import REPOSITORY

from longva_ray.commands.serve import Options as ServeOptions
from longva_ray.files.places import absolute, local_path
from longva_ray.files.videos import find_videos
from longva_ray.options import find_base, find_checkpoint, parse, recipe_defaults
from longva_ray.recipes import checkpoint_of, get_recipe
from longva_ray.settings.answering import GenerationSettings, ServeConfig
from longva_ray.settings.base import from_dict, save_config
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.settings.recipe import Recipe


def test_a_saved_recipe_comes_back_equal(tmp_path: Path) -> None:
    recipe = get_recipe("longva_7b")
    save_config(recipe, tmp_path / "recipe.json")
    assert from_dict(Recipe, json.loads((tmp_path / "recipe.json").read_text())) == recipe


def test_an_unknown_key_lists_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"\['fps'\] for EncodeConfig.*'sampling'"):
        from_dict(EncodeConfig, {"fps": 1})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"micro_batch": 0}, "--encode.micro-batch must be at least 1, got 0"),
        ({"decode_cpus": 0.0}, "--encode.decode-cpus must be above 0"),
        ({"max_encoders": 0}, "--encode.max-encoders must be at least 1 or None"),
        ({"sampling": "2fpm"}, "2fpm"),
    ],
)
def test_bad_encode_settings(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncodeConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"session_gib": -1.0}, "--serve.session-gib must be at least 0, got -1.0"),
        ({"session_gib": math.nan}, "--serve.session-gib must be at least 0, got nan"),
        ({"session_gib": math.inf}, "--serve.session-gib must be a number of GiB, got inf"),
        ({"prefill_chunk": 0}, "--serve.prefill-chunk must be at least 1, got 0"),
        ({"max_prompt_tokens": 0}, "--serve.max-prompt-tokens must be at least 1 or None, got 0"),
        ({"lm_replicas": 0}, "--serve.lm-replicas must be at least 1, got 0"),
        ({"lm_gpus": -0.5}, "--serve.lm-gpus must be at least 0, got -0.5"),
    ],
)
def test_bad_serve_settings(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServeConfig(**values)  # type: ignore[arg-type]


def test_no_sessions_is_a_setting() -> None:
    assert ServeConfig(session_gib=0).session_gib == 0


@pytest.mark.parametrize("values", [{"temperature": 3.0}, {"top_p": 0.0}, {"max_new_tokens": 0}])
def test_bad_generation_settings(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        GenerationSettings(**values)  # type: ignore[arg-type]


def test_the_command_line_starts_from_the_recipe() -> None:
    options = parse(ServeOptions, ["--recipe", "longva_7b", "--encode.micro-batch", "7"])
    assert options.encode.micro_batch == 7
    assert options.encode.dtype == get_recipe("longva_7b").encode.dtype == "bfloat16"
    assert recipe_defaults(ServeOptions, "tiny").encode.dtype == "float32"


@pytest.mark.parametrize("setting", ["decode-cpus", "encoder-gpus", "max-encoders"])
def test_a_server_refuses_settings_of_the_batch_job(setting: str) -> None:
    options = parse(ServeOptions, [f"--encode.{setting}", "2"])
    with pytest.raises(ValueError, match=rf"--encode.{setting} .* --serve.encoder-gpus"):
        options.app_args()


@pytest.mark.parametrize("arguments", [["--recipe", "huge"], ["--encode.mikro-batch", "7"]])
def test_mistakes_on_the_command_line_end_the_program(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(ServeOptions, arguments)
    assert ended.value.code not in (0, None)


def test_folders_give_their_videos_sorted(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.MKV", "notes.txt"):
        (tmp_path / name).touch()
    assert find_videos([str(tmp_path)]) == [str(tmp_path / "a.MKV"), str(tmp_path / "b.mp4")]
    uri = f"file://{tmp_path}"
    assert find_videos([uri]) == [f"{uri}/a.MKV", f"{uri}/b.mp4"]
    assert find_videos(["s3://bucket/v.mp4"]) == ["s3://bucket/v.mp4"]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="no videos"):
        find_videos([str(empty)])


def test_relative_paths_are_refused_in_a_submitted_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("store") == str(tmp_path / "store")
    job = {"runtime_env": {"working_dir": "gcs://_ray_pkg_0.zip"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    assert absolute("/data/store") == "/data/store"
    with pytest.raises(ValueError, match="temporary copy"):
        absolute("store")


def test_a_recipe_without_weights_says_so() -> None:
    with pytest.raises(ValueError, match="smollm2 has no LongVA weights; give --model"):
        checkpoint_of(get_recipe("smollm2"))


def test_a_folder_of_weights_goes_to_workers_by_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"has no config\.json; the result of a run is in its"):
        find_checkpoint("weights", "tiny")
    for nothing in ("/no/such/model", "./weight", "runs/extend/final", "SmolLM2.gguf"):
        with pytest.raises(ValueError, match=f"no model '{nothing}' here"):
            find_checkpoint(nothing, "tiny")
    (tmp_path / "weights" / "config.json").write_text("{}")
    assert find_checkpoint("weights", "tiny") == str(tmp_path / "weights")
    assert find_checkpoint("lmms-lab/LongVA-7B", "tiny") == "lmms-lab/LongVA-7B"
    assert find_checkpoint(None, "longva_7b") == "lmms-lab/LongVA-7B"
    assert find_base("weights", "tiny") == str(tmp_path / "weights")
    assert find_base(None, "longva_7b") == "Qwen/Qwen2-7B-Instruct"
    # The language model of the recipe's own checkpoint, where it names no other.
    assert find_base(None, "tiny") == checkpoint_of(get_recipe("tiny"))


def test_reports_are_not_written_to_a_uri(tmp_path: Path) -> None:
    assert local_path(str(tmp_path)) == tmp_path
    with pytest.raises(ValueError, match="is a URI, but reports"):
        local_path("s3://bucket/report")


def test_messages_name_options_as_they_are_typed() -> None:
    """`--text.domain-field`, not `text.domain_field`, which nobody can type."""
    recipe = get_recipe("tiny")
    stages = {
        field.name: {each.name for each in dataclasses.fields(stage)}
        for field in dataclasses.fields(recipe)
        if dataclasses.is_dataclass(stage := getattr(recipe, field.name))
    }
    by_field = re.compile(rf"(?<![\w./-])({'|'.join(stages)})\.(\w+)")
    offenders = [
        f"{path.name}: {found[0]}"
        for path in (REPOSITORY / "longva_ray").rglob("*.py")
        for text in texts_of(ast.parse(path.read_text()))
        for found in by_field.finditer(text)
        if found[2] in stages[found[1]]
    ]
    assert offenders == []


def texts_of(tree: ast.Module) -> Iterator[str]:
    """Every text of a module but its docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in docstrings:
            yield node.value
