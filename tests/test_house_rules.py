"""The layers and habits of docs/design.md, kept by tests instead of by memory."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from repository import REPOSITORY

PACKAGE = REPOSITORY / "longva_ray"


MODULES = sorted(PACKAGE.rglob("*.py"))


JOBS = sorted((REPOSITORY / "jobs").rglob("*.py"))


NEVER_RAY = (
    *(f"{folder}/" for folder in ("answer", "files", "lm", "planner", "ring", "settings")),
    *(f"{folder}/" for folder in ("tiny", "video", "vision")),
    "shards/workers.py",
    "shards/store.py",
    *(f"data/images/{name}.py" for name in ("chat", "samples", "shards")),
    *(f"data/text/{name}.py" for name in ("corpus", "files", "mixture", "packing", "report")),
    *(f"data/text/{name}.py" for name in ("shards", "sources", "tokenise")),
    "train/loop.py",
    "train/stages/",
    "evaluate/heatmap.py",
    "evaluate/text/niah.py",
    "evaluate/text/perplexity.py",
    "evaluate/video/vniah.py",
)
OPTIONAL = [
    "decord",
    "deepspeed",
    "flash_attn",
    "ring_flash_attn",
    "liger_kernel",
    "boto3",
]


MAX_FILE_LINES = 400


MAX_FUNCTION_LINES = 60


MAX_JOB_LINES = 80


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def imports_any(path: Path, package: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for name in imports(path))


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_layers(path: Path) -> None:
    name = relative(path)
    if name.startswith(NEVER_RAY):
        assert not imports_any(path, "ray"), f"{name} must run on a machine without Ray"
    if name.startswith("lm/"):
        assert not imports_any(path, "longva_ray.ring"), "lm receives an attention name, not a ring"
    if name.startswith("ring/"):
        for above in ("lm", "vision", "video", "shards", "answer", "serving"):
            assert not imports_any(path, f"longva_ray.{above}"), "the ring knows no model"
    if name.startswith("video/"):
        assert not imports_any(path, "torch"), "frames are plain arrays until vision takes them"


def test_every_module_imports_without_optional_packages() -> None:
    import_without(OPTIONAL, MODULES)


def test_layers_below_ray_import_nothing_that_needs_it() -> None:
    import_without(["ray"], [path for path in MODULES if relative(path).startswith(NEVER_RAY)])


def import_without(missing: Sequence[str], modules: Sequence[Path]) -> None:
    code = "\n".join(
        [
            "import importlib, sys",
            f"for name in {list(missing)!r}: sys.modules[name] = None",
            *[f"importlib.import_module({module_name(path)!r})" for path in modules],
        ]
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("path", [*MODULES, *JOBS], ids=lambda path: path.name)
def test_sizes(path: Path) -> None:
    text = path.read_text()
    limit = MAX_JOB_LINES if path in JOBS and path.parent.name != "bench" else MAX_FILE_LINES
    assert text.count("\n") <= limit, "is there more than one idea in this file?"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            start = first.end_lineno if documented and first.end_lineno else node.lineno
            assert (node.end_lineno or start) - start <= MAX_FUNCTION_LINES, node.name


@pytest.mark.parametrize("path", [*MODULES, *JOBS], ids=lambda path: path.name)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


def test_names() -> None:
    names = {path.stem for path in MODULES}
    assert "utils" not in names
    assert not names & {"ray", "torch", "deepspeed", "decord", "transformers", "flash_attn"}


def test_every_recipe_constructs() -> None:
    recipes = importlib.import_module("longva_ray.recipes")
    for name in recipes.RECIPES:
        assert recipes.get_recipe(name).name == name
    with pytest.raises(ValueError, match="tiny"):
        recipes.get_recipe("huge")
