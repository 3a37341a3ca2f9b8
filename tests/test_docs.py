"""The documentation names what is there: files, folders, links, and every file in the map."""

import re
from collections.abc import Iterator
from pathlib import Path

from repository import REPOSITORY

PACKAGE = REPOSITORY / "longva_ray"


PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
    PACKAGE / "tiny" / "weights" / "README.md",
]


MAX_README_LINES = 130


_FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


_CODE = re.compile(r"`([^`\n]+)`")


_LINK = re.compile(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")


_PATH = re.compile(r"(\w+)(/[\w.*-]+)+/?")


_JOB = re.compile(r"python (jobs/[\w/]+\.py)")


_MAKE = re.compile(r"(?:^|`)make ([\w-]+)(?=`| |$)", re.MULTILINE)


_TREE_LINE = re.compile(r"( *)([\w.-]+/?)(?: {2,}.*)?")


def name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def is_there(path: str) -> bool:
    """Whether a path or pattern is one of the repository, or of the package."""
    return any(any(root.glob(path.rstrip("/"))) for root in (REPOSITORY, PACKAGE))


def is_ours(code: str) -> bool:
    """Whether this is a path that begins in a folder of the repository or of the package."""
    found = _PATH.fullmatch(code)
    return found is not None and any((root / found[1]).is_dir() for root in (REPOSITORY, PACKAGE))


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub names them in links."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def named_in_the_map() -> Iterator[Path]:
    """Every file and folder of the trees in docs/map.md."""
    for fence in _FENCE.findall((REPOSITORY / "docs" / "map.md").read_text()):
        above: list[tuple[int, Path]] = [(-1, REPOSITORY)]
        for line in filter(None, fence.splitlines()[1:-1]):
            found = _TREE_LINE.fullmatch(line)
            assert found is not None, f"docs/map.md: {line!r} is no line of a tree"
            indent, entry = len(found[1]), found[2]
            while above[-1][0] >= indent:
                above.pop()
            path = above[-1][1] / entry
            above.append((indent, path))
            yield path


def test_paths_exist() -> None:
    missing = [
        f"{name(page)}: {path}"
        for page in PAGES
        for path in _CODE.findall(_FENCE.sub("", page.read_text()))
        if is_ours(path) and not is_there(path)
    ]
    assert missing == []


def test_commands_run_jobs_that_exist() -> None:
    jobs = {(name(page), job) for page in PAGES for job in _JOB.findall(page.read_text())}
    assert ("README.md", "jobs/encode_videos.py") in jobs
    assert [each for each in sorted(jobs) if not (REPOSITORY / each[1]).is_file()] == []


def test_make_has_the_targets() -> None:
    targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    named = {target for page in PAGES for target in _MAKE.findall(page.read_text())}
    assert {"demo", "test", "lint"} <= named
    assert named - set(targets) == set()


def test_links_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        for found in _LINK.findall(_FENCE.sub("", page.read_text())):
            link = "".join(found)
            if "://" in link:
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append(f"{name(page)}: {link}")
    assert broken == []


def test_the_map_names_every_file_and_no_other() -> None:
    named = list(named_in_the_map())
    assert [name(path) for path in named if not path.exists()] == []
    files = {*PACKAGE.rglob("*.py"), *(REPOSITORY / "jobs").rglob("*.py")}
    unnamed = {path for path in files if path.name != "__init__.py"} - set(named)
    assert sorted(map(name, unnamed)) == []


def test_the_readme_is_short() -> None:
    lines = len((REPOSITORY / "README.md").read_text().splitlines())
    assert lines <= MAX_README_LINES
