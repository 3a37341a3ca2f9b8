"""The layers and habits of docs/design.md, kept by tests instead of by memory.

One test for each rule; it lists everything that breaks the rule.
"""

import ast
import importlib
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from repository import JOBS, REPOSITORY

PACKAGE = REPOSITORY / "longva_ray"
MODULES = sorted(PACKAGE.rglob("*.py"))
COMMANDS = sorted(JOBS.glob("*.py"))
BENCHES = sorted((JOBS / "bench").glob("*.py"))
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))

FLOORS = (
    {"files", "progress", "ring", "video"},
    {"settings", "vision"},
    {"lm"},
    {"answer", "cluster", "tiny"},
    {"recipes", "shards"},
    {"data"},
    {"evaluate", "options", "planner", "train"},
    {"serving"},
    {"workflows"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
"""Folders and single files of the package, from the ground up. Each imports only from below."""

NEVER_RAY = (
    *(f"{folder}/" for folder in ("answer", "files", "lm", "planner", "ring", "settings")),
    *(f"{folder}/" for folder in ("tiny", "video", "vision")),
    *(f"shards/{name}.py" for name in ("encoded_video", "given_frames", "image_encoder", "images")),
    *(f"shards/{name}.py" for name in ("schema", "store", "workers")),
    *(f"data/{name}.py" for name in ("sample_parts", "sample_report")),
    *(f"data/preferences/{name}.py" for name in ("frame_folders", "manifest", "pairs", "score")),
    *(f"data/preferences/{name}.py" for name in ("seen", "shards")),
    *(f"data/images/{name}.py" for name in ("chat", "encode", "manifest", "report")),
    *(f"data/images/{name}.py" for name in ("samples", "shards", "sizes", "sizes_figure")),
    *(f"data/text/{name}.py" for name in ("corpus", "delivery", "documents", "files", "groups")),
    "data/text/tokenise.py",
    *(f"data/text/{name}.py" for name in ("mixture", "packing", "report", "shards", "sources")),
    *(f"train/{name}.py" for name in ("activations", "checkpoints", "deepspeed_internals")),
    *(f"train/{name}.py" for name in ("engine", "loop", "order", "plain", "records", "schedule")),
    *(f"train/{name}.py" for name in ("speed", "stage", "zero")),
    "train/stages/",
    *(f"evaluate/{name}.py" for name in ("heatmap", "ledger", "rates", "report", "subjects")),
    *(f"evaluate/{name}" for name in ("benchmarks/", "lmms_tasks/", "server.py", "verdicts.py")),
    *(
        f"evaluate/questions/{name}.py"
        for name in ("answers", "ask", "figure", "records", "report")
    ),
    *(f"evaluate/questions/{name}.py" for name in ("served", "server", "worker")),
    *(f"evaluate/text/{name}.py" for name in ("haystack", "niah", "perplexity", "report")),
    *(f"evaluate/video/{name}.py" for name in ("haystack", "needles", "report", "vniah")),
)
"""What must run on a machine without Ray."""

OPTIONAL = ["decord", "deepspeed", "flash_attn", "ring_flash_attn", "liger_kernel", "boto3"]
NOT_BARE = ["ray", "boto3", "moto", "tyro", "rich", "fastapi", "av"]
"""What tests/bare must do without: a GPU machine has torch, transformers and pytest."""

MAX_FILE_LINES = 350
MAX_MEDIAN_LINES = 130
MAX_FUNCTION_LINES = 60
MAX_COMMAND_LINES = 80


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


def folder_of(module: str) -> str:
    """`longva_ray.lm.load` -> `lm`; `longva_ray.cli` -> `cli`."""
    return module.split(".")[1]


def import_graph() -> dict[str, set[str]]:
    """The package's own modules, without its folders' `__init__`, and which others each imports."""
    names = {module_name(path): path for path in MODULES if path.name != "__init__.py"}
    return {name: imports(path) & names.keys() - {name} for name, path in names.items()}


def circles(graph: dict[str, set[str]]) -> list[str]:
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return [" -> ".join(reversed(error.args[1]))]
    return []


def none(offenders: Iterable[str], rule: str) -> None:
    """Fail with the rule and all that breaks it."""
    found = sorted(offenders)
    assert not found, f"{rule}:\n  " + "\n  ".join(found)


def test_what_runs_without_ray_never_imports_it() -> None:
    below = [path for path in MODULES if relative(path).startswith(NEVER_RAY)]
    none((relative(path) for path in below if imports_any(path, "ray")), "must run without Ray")


def test_models_and_rings_do_not_know_each_other() -> None:
    ring, lm, video = ((PACKAGE / name).rglob("*.py") for name in ("ring", "lm", "video"))
    none(
        (relative(path) for path in lm if imports_any(path, "longva_ray.ring")),
        "lm receives an attention name, not a ring",
    )
    none(
        (
            f"{relative(path)} imports {name}"
            for path in ring
            for name in sorted(imports(path))
            if name.startswith("longva_ray.") and folder_of(name) != "ring"
        ),
        "the ring knows no model",
    )
    none(
        (relative(path) for path in video if imports_any(path, "torch")),
        "frames are plain arrays until vision takes them",
    )


def test_no_file_imports_itself_through_others() -> None:
    none(circles(import_graph()), "an import circle among files")


def test_no_folder_imports_itself_through_others() -> None:
    folders: dict[str, set[str]] = {}
    for module, others in import_graph().items():
        folder = folder_of(module)
        folders.setdefault(folder, set()).update(set(map(folder_of, others)) - {folder})
    none(circles(folders), "an import circle among folders")


def test_imports_lead_down() -> None:
    floor = {folder: height for height, folders in enumerate(FLOORS) for folder in folders}
    graph = import_graph()
    none(set(map(folder_of, graph)) - floor.keys(), "a folder that FLOORS does not name")
    none(
        (
            f"{module} imports {other}"
            for module, others in graph.items()
            for other in others
            if folder_of(other) != folder_of(module)
            and floor[folder_of(other)] >= floor[folder_of(module)]
        ),
        "an import of something that is not on a lower floor",
    )


def test_every_module_imports_without_optional_packages() -> None:
    import_without(OPTIONAL, MODULES)


def test_layers_below_ray_import_nothing_that_needs_it() -> None:
    import_without(["ray"], [path for path in MODULES if relative(path).startswith(NEVER_RAY)])


def import_without(missing: Sequence[str], modules: Sequence[Path]) -> None:
    run_without(missing, *(f"importlib.import_module({module_name(path)!r})" for path in modules))


def run_without(missing: Sequence[str], *statements: str) -> None:
    """Run statements in a process in which packages cannot be imported."""
    block = f"for name in {list(missing)!r}: sys.modules[name] = None"
    code = "\n".join(["import importlib, sys", block, *statements])
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-5000:]


def test_what_only_moves_data_starts_without_models() -> None:
    """Every process imports what it runs: torch takes 2 s, the classes of models 3 more."""
    import_without(["torch"], [PACKAGE / "shards" / "workers.py"])
    text, images, shards = PACKAGE / "data/text", PACKAGE / "data/images", PACKAGE / "shards"
    workers = [text / "tokenise.py", images / "encode.py"]
    commands = [folder / "pipeline.py" for folder in (text, images, shards)]
    import_without(["transformers.modeling_utils"], [*workers, *commands])


def test_bare_tests_need_no_more_than_torch_and_transformers() -> None:
    collect = (
        "sys.exit(pytest.main(['--collect-only', '-q', '-p', 'no:cacheprovider', 'tests/bare']))"
    )
    run_without(NOT_BARE, "import pytest", collect)


def test_tests_for_gpus_are_bare() -> None:
    elsewhere = [path for path in TESTS if (REPOSITORY / "tests/bare") not in path.parents]
    none(
        (str(path) for path in elsewhere if "pytest.mark." + "gpu" in path.read_text()),
        "a GPU machine has no Ray, so tests marked gpu belong to tests/bare",
    )


def test_file_sizes() -> None:
    lines = {path: path.read_text().count("\n") for path in [*MODULES, *COMMANDS, *BENCHES, *TESTS]}
    limit = dict.fromkeys(lines, MAX_FILE_LINES) | dict.fromkeys(COMMANDS, MAX_COMMAND_LINES)
    none(
        (f"{path}: {number}" for path, number in lines.items() if number > limit[path]),
        "is there more than one idea in a file of so many lines?",
    )
    median = statistics.median(lines[path] for path in MODULES if path.name != "__init__.py")
    assert median < MAX_MEDIAN_LINES


def test_function_sizes() -> None:
    none(
        (
            f"{path}: {node.name}"
            for path in [*MODULES, *COMMANDS, *BENCHES]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and lines_of_code(node) > MAX_FUNCTION_LINES
        ),
        f"a function of more than {MAX_FUNCTION_LINES} lines",
    )


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function after its docstring."""
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    start = first.end_lineno if documented and first.end_lineno else function.lineno
    return (function.end_lineno or start) - start


def test_every_module_says_what_it_is() -> None:
    none(
        (
            str(path)
            for path in [*MODULES, *COMMANDS, *BENCHES, *TESTS]
            if not ast.get_docstring(ast.parse(path.read_text()))
        ),
        "a module without a docstring",
    )


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
