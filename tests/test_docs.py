"""The README and the pages of docs/ are true: their blocks run, their options and names exist, the site builds.

`pages` says how blocks are marked.
"""

from __future__ import annotations

import ast
import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import REPOSITORY, environment, run_python
from pages import CONSOLE, blocks, unseen

import se_nas
from se_nas.cli import COMMANDS, options_of, parse

DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md"))]
NAMES = [str(page.relative_to(REPOSITORY)) for page in PAGES]
ELSEWHERE = {"--port", "--head", "--address", "--num-cpus", "--logdir", "--strict", "--help", "--version"}
"""Options of other programs that the pages name: ray, tensorboard, mkdocs; and of se-nas without a command."""


WITH_BLOCKS = [name for name in NAMES if any(block.runs for block in blocks((REPOSITORY / name).read_text()))]


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What went wrong on which page, when one reader had followed them all."""
    folder = tmp_path_factory.mktemp("pages")
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "tests" / "pages.py"), *(str(REPOSITORY / name) for name in WITH_BLOCKS)],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert (folder / "failed.json").is_file(), f"{done.stdout}\n{done.stderr}"
    found: dict[str, str] = json.loads((folder / "failed.json").read_text())
    return found


@pytest.mark.parametrize("page", WITH_BLOCKS)
def test_every_block_runs(page: str, failed: dict[str, str]) -> None:
    assert failed.get(str(REPOSITORY / page), "") == ""


NEEDS = sorted({(name, b.needs) for name in NAMES for b in blocks((REPOSITORY / name).read_text()) if b.needs})


@pytest.mark.parametrize(("page", "package"), NEEDS)
def test_blocks_that_need_a_package_run(page: str, package: str, failed: dict[str, str]) -> None:
    pytest.importorskip(package, reason=f"{page} has blocks that need {package}")
    assert failed.get(str(REPOSITORY / page), "") == ""


@pytest.mark.parametrize("page", NAMES)
def test_commands_that_are_not_run_have_true_options(page: str) -> None:
    for block in blocks((REPOSITORY / page).read_text()):
        if not block.mark.startswith(("not run: ", "needs ")):
            continue
        assert block.mark.removeprefix("not run: ").strip(), f"{page}, line {block.line}: no reason"
        if block.kind == "python":
            ast.parse(block.code)
        for command in block.commands:
            if command[0] == "se-nas":
                parse(command[1:])


@functools.cache
def options() -> set[str]:
    """Names of all options of all commands, short ones too, with underscores."""
    return {option.removeprefix("--") for command in COMMANDS for option in options_of(command)}


@pytest.mark.parametrize("page", NAMES)
def test_options_in_the_text_exist(page: str) -> None:
    text = re.sub(r"^ *```.*?^ *```$", "", (REPOSITORY / page).read_text(), flags=re.M | re.S)
    named = {option for code in re.findall(r"`([^`\n]+)`", text) for option in re.findall(r"--[a-z][\w.-]*", code)}
    known = options()
    wrong = {o for o in named - ELSEWHERE if re.sub(r"\.args\..*", "", o[2:]).replace("-", "_") not in known}
    assert wrong == set()


def test_every_page_is_in_the_menu() -> None:
    """MkDocs only informs of pages that the menu lacks."""

    class Loader(yaml.SafeLoader):
        """Leaves MkDocs' own tags alone."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    menu = yaml.load((REPOSITORY / "mkdocs.yml").read_text(), Loader)["nav"]
    listed = re.findall(r"[\w/-]+\.md", yaml.safe_dump(menu))
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_all_public_names_are_in_the_reference() -> None:
    text = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    named = set(re.findall(r"^(?:::: se_nas\.(?:\w+\.)*|<!-- settings of )(\w+)", text, re.M))
    assert set(se_nas.__all__) - {"__version__"} <= named


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|iframe|link)\b[^>]*?(?:src|href)="(?:https?:)?//[^"]+"[^>]*>', page.read_text()
        )
        assert [tag for tag in loaded if 'rel="canonical"' not in tag] == [], f"{page} is not whole without a network"


def test_links_of_the_readme_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", (REPOSITORY / "README.md").read_text())
    missing = [target for target in targets if not (REPOSITORY / target).exists()]
    assert missing == []


class TestBlocks:
    """How pages are read."""

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("```console\nse-nas sites\n```\n", [["se-nas", "sites"]]),
            ("```console\n$ se-nas cost \\\n  --json  # a comment\nmake x\n```\n", [["se-nas", "cost", "--json"]]),
            ("<!-- not run: slow -->\n```bash\nse-nas search\n```\n", []),
            ("```\nse-nas search\n```\n", []),
            ("* item\n\n    ```console\n    se-nas sites\n    ```\n", [["se-nas", "sites"]]),
        ],
    )
    def test_what_counts_as_a_command(self, text: str, expected: list[list[str]]) -> None:
        found = [block for block in blocks(text) if block.runs and block.kind in CONSOLE]
        assert [command for block in found for command in block.commands] == expected

    def test_a_file_and_a_mark(self) -> None:
        file, fails = blocks('```python title="a/b.py"\nx = 1\n```\n\n<!-- fails -->\n```console\nse-nas x\n```\n')
        assert (file.title, file.code, file.runs) == ("a/b.py", "x = 1\n", False)
        assert (fails.mark, fails.runs, fails.line) == ("fails", True, 6)

    @pytest.mark.parametrize(
        ("shown", "missing"),
        [("a  b\n\nd\n", None), ("a b\n...\ne\n", None), ("d\na b\n", "a b"), ("a\n", "a")],
    )
    def test_shown_output(self, shown: str, missing: str | None) -> None:
        assert unseen(shown, "a b\nc\nd\ne\n") == missing

    def test_a_page_that_is_wrong_fails(self, tmp_path: Path) -> None:
        page = tmp_path / "page.md"
        page.write_text("```python\nprint(1 + 1)\n```\n\n<!-- exact output -->\n```\n3\n```\n")
        done = run_python(str(REPOSITORY / "tests" / "pages.py"), str(page), cwd=tmp_path)
        assert done.returncode == 1
        assert "page.md, line 6: not printed: '3'" in done.stderr
