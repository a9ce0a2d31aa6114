"""Code blocks of Markdown pages, and a reader who follows them: ``python tests/pages.py PAGE ...`` in an empty folder.

* ``python``: a script. ``console``, ``bash``, ``sh``: its lines that start with ``se-nas`` or ``python``.
* A block with ``title="FILE"`` is that file.
* After ``<!-- not run: reason -->`` a block is left out; its options are checked all the same.
* After ``<!-- needs PACKAGE -->`` a block is followed if that is installed; its options are checked anyhow.
* After ``<!-- fails -->`` every command ends with code 2, as a mistake of the user does.
* After ``<!-- exact output -->`` a block is compared with what the block before it printed; ``...`` stands for any
  lines. Other output is that of a real run.

One process follows all pages, each in a folder of its own, so that libraries are imported once.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- (?P<mark>[^\n]+) -->\n+(?P=indent))?"
    r"```(?P<kind>\w*)(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```$",
    re.M | re.S,
)
CONSOLE = ("console", "bash", "sh")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block."""

    line: int
    kind: str
    mark: str
    title: str
    code: str

    @property
    def runs(self) -> bool:
        return self.kind in (*CONSOLE, "python") and not self.title and not self.mark.startswith("not run: ")

    @property
    def needs(self) -> str:
        """The package without which the block is left out."""
        return self.mark.removeprefix("needs ") if self.mark.startswith("needs ") else ""

    @property
    def can_run(self) -> bool:
        return not self.needs or importlib.util.find_spec(self.needs) is not None

    @property
    def commands(self) -> list[list[str]]:
        """Commands of a console block."""
        if self.kind not in CONSOLE:
            return []
        lines = [line.removeprefix("$ ").strip() for line in self.code.replace("\\\n", " ").splitlines()]
        return [shlex.split(line, comments=True) for line in lines if line.startswith(("se-nas ", "python "))]


def blocks(text: str) -> Iterator[Block]:
    """All fenced blocks of a page."""
    for match in BLOCK.finditer(text):
        title = re.search(r'title="([^"]+)"', match["info"])
        yield Block(
            line=text[: match.start("kind")].count("\n") + 1,
            kind=match["kind"],
            mark=match["mark"] or "",
            title=title[1] if title else "",
            code=re.sub(rf"^{match['indent']}", "", match["code"], flags=re.M),
        )


def follow(page: Path) -> None:
    """Do what a page says, in the current folder; AssertionError with the line where it fails."""
    printed = ""
    left_out = False
    for block in blocks(page.read_text()):
        if block.mark == "exact output" and left_out:
            continue
        if block.needs and not block.can_run:
            left_out = True
        elif block.mark == "exact output":
            missing = unseen(block.code, printed)
            assert missing is None, f"{page.name}, line {block.line}: not printed: {missing!r}\nbut:\n{printed}"
        elif block.title:
            Path(block.title).parent.mkdir(parents=True, exist_ok=True)
            Path(block.title).write_text(block.code)
        elif block.runs:
            printed, left_out = "", False
            steps = [block.code] if block.kind == "python" else block.commands
            for step in steps:
                code, text = done(step)
                print(f"--- {page.name}, line {block.line}\n{text}", flush=True)
                wanted = 2 if block.mark == "fails" else 0
                assert code == wanted, f"{page.name}, line {block.line}: code {code}, not {wanted}: {step}\n{text}"
                printed += text


def unseen(shown: str, printed: str) -> str | None:
    """The first shown line that was not printed, in this order; None if all were."""
    lines = iter(" ".join(line.split()) for line in printed.splitlines())
    for line in shown.splitlines():
        words = " ".join(line.split())
        if words not in ("", "...") and words not in lines:
            return line
    return None


def done(step: str | list[str]) -> tuple[int, str]:
    """Exit code and output of a Python script or a command."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        if isinstance(step, str):
            exec(compile(step, "<block>", "exec"), {"__name__": "__main__"})  # the page's own code, as a reader runs it
            code = 0
        elif step[0] == "se-nas":
            from se_nas.cli import main

            code = main(step[1:])
        else:
            ended = subprocess.run([sys.executable, *step[1:]], capture_output=True, text=True, check=False)
            code = ended.returncode
            said.write(ended.stdout + ended.stderr)
    return code, said.getvalue()


def follow_all(pages: list[Path]) -> dict[str, str]:
    """What went wrong on which page."""
    failed, here, path = {}, Path.cwd(), list(sys.path)
    for number, page in enumerate(pages):
        folder = here / f"{number}-{page.stem}"
        folder.mkdir()
        os.chdir(folder)
        sys.path.insert(0, str(folder))  # as for a script in that folder
        try:
            follow(page)
        except (Exception, SystemExit):
            failed[str(page)] = traceback.format_exc()
        finally:
            os.chdir(here)
            sys.path[:] = path
    return failed


if __name__ == "__main__":
    os.environ |= {"MPLBACKEND": "agg", "COLUMNS": "100"}  # the width that the pages show
    wrong = follow_all([Path(page).resolve() for page in sys.argv[1:]])
    Path("failed.json").write_text(json.dumps(wrong))
    sys.exit("\n".join(wrong.values()) if wrong else 0)
