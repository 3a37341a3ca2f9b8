"""Every command in the documentation parses: its options are there and take what they are given."""

import re
import shlex
from collections.abc import Iterator

import pytest
from repository import REPOSITORY, load_job

from longva_ray import cli
from longva_ray.options import parse

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


_CODE = re.compile(r"^ *```bash\n(.*?)^ *```|`(python jobs/[^`]+)`", re.MULTILINE | re.DOTALL)


_COMMAND = re.compile(r"(?<=python )jobs/\S+\.py.*|^longva .*")


def documented() -> Iterator[list[str]]:
    """Words of every command that runs a job or `longva`, from the name of that on."""
    for page in PAGES:
        for block, inline in _CODE.findall(page.read_text()):
            lines = block.replace("\\\n", " ").splitlines() or [" ".join(inline.split())]
            for line in lines:
                if (found := _COMMAND.search(line)) is not None:
                    yield shlex.split(found[0], comments=True)


def test_documented_commands_parse(capsys: pytest.CaptureFixture[str]) -> None:
    commands = {tuple(words) for words in documented()}
    called = {name for name, *_ in commands}
    assert {"longva", "jobs/encode_videos.py", "jobs/bench/ring.py"} <= called
    options = {name: load_job(REPOSITORY / name).Options for name in called - {"longva"}}
    for name, *arguments in sorted(commands):
        try:
            if name == "longva":
                cli.parse(arguments)
            else:
                parse(options[name], arguments)
        except SystemExit:
            pytest.fail(f"{name} {' '.join(arguments)}:\n{capsys.readouterr().err}")
