"""The blocks of the README, one after the other, in one folder.

Python blocks run as scripts; of console blocks the lines that start with ``se-nas`` or ``python``. A block after a line
``<!-- not run: reason -->`` is left out.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPOSITORY, environment, run_python

README = REPOSITORY / "README.md"
BLOCK = re.compile(
    r"^(?:(?P<skip><!-- not run: .+ -->)\n+)?```(?P<kind>python|console|bash|sh)\n(?P<code>.*?)^```$", re.M | re.S
)


def blocks() -> list[re.Match[str]]:
    return [match for match in BLOCK.finditer(README.read_text()) if not match["skip"]]


def commands(code: str) -> list[list[str]]:
    lines = [line.removeprefix("$ ").strip() for line in code.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(("se-nas ", "python "))]


def test_every_block_runs(tmp_path: Path) -> None:
    found = blocks()
    if not found:
        pytest.skip("the README has no blocks yet")
    for match in found:
        line = README.read_text()[: match.start()].count("\n") + 1
        if match["kind"] == "python":
            done = run_python("-c", match["code"], cwd=tmp_path)
            assert done.returncode == 0, f"README.md, line {line}:\n{done.stderr}"
            continue
        for command in commands(match["code"]):
            start = ["-m", "se_nas.cli"] if command[0] == "se-nas" else []
            done = subprocess.run(
                [sys.executable, *start, *command[1:]],
                cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"README.md, line {line}: {shlex.join(command)}\n{done.stderr}"


def test_links_to_files_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text())
    missing = [target for target in targets if not (REPOSITORY / target).exists()]
    assert missing == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```console\nse-nas sites\n```\n", [["se-nas", "sites"]]),
        ("```console\n$ se-nas cost \\\n  --json  # a comment\nmake x\n```\n", [["se-nas", "cost", "--json"]]),
        ("<!-- not run: slow -->\n```bash\nse-nas search\n```\n", []),
        ("```\nse-nas search\n```\n", []),
    ],
)
def test_what_counts_as_a_block(text: str, expected: list[list[str]]) -> None:
    found = [m for m in BLOCK.finditer(text) if not m["skip"]]
    assert [c for m in found for c in commands(m["code"])] == expected
