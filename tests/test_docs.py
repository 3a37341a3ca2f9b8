"""The documentation names what is there: pages, headings and commands."""

import re
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


_LINK = re.compile(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")


_JOB = re.compile(r"python (jobs/[\w/]+\.py)")


def name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub names them in links."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def test_commands_run_jobs_that_exist() -> None:
    jobs = {(name(page), job) for page in PAGES for job in _JOB.findall(page.read_text())}
    assert ("README.md", "jobs/encode_videos.py") in jobs
    assert [each for each in sorted(jobs) if not (REPOSITORY / each[1]).is_file()] == []


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


def test_the_readme_is_short() -> None:
    lines = len((REPOSITORY / "README.md").read_text().splitlines())
    assert lines <= MAX_README_LINES
