"""What a newcomer sees first: the overview, the help of each command, the version, completion."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from helpers import REPOSITORY, run_python

from se_nas.cli import COMMANDS, main, options_of, parse
from se_nas.commands.help_text import HEADINGS, OTHER, options_in, overview, parser_of
from se_nas.core.version import __version__

SCREEN = 40
"""Lines that a terminal of today shows at once."""


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert not end.value.code
    return capsys.readouterr().out


class TestOverview:
    def test_alone_it_shows_every_command_and_ends_as_a_mistake(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        for name, command in COMMANDS.items():
            assert f"\n  {name} " in captured.err
            assert command.help in captured.err
        assert len(captured.err.splitlines()) <= SCREEN

    def test_help_is_the_same_and_no_mistake(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert help_of(capsys) == overview(COMMANDS)

    def test_its_example_is_a_command(self) -> None:
        examples = [line.strip() for line in overview(COMMANDS).splitlines() if line.startswith("  se-nas ")]
        assert len(examples) == 1
        parse(shlex.split(examples[0])[1:])

    def test_groups_stand_together(self) -> None:
        groups = [command.group for command in COMMANDS.values()]
        assert groups == sorted(groups, key=groups.index)

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            main(["--version"])
        assert not end.value.code
        assert capsys.readouterr().out.strip() == f"se-nas {__version__}"


class TestPages:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_example_is_of_this_command_and_can_be_given(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "search.yaml").write_text("budget: 3\n")
        assert COMMANDS[name].examples
        for example in COMMANDS[name].examples:
            words = shlex.split(example.partition(">")[0], comments=True)
            assert words[:2] == ["se-nas", name]
            assert parse(words[1:]).command == name

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_option_stands_under_a_heading_once_and_can_be_given(
        self, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options = options_in(parser_of(name, COMMANDS[name]))
        page = help_of(capsys, name)
        shown = [option.shown for option in options]
        assert len(set(shown)) == len(shown)
        known = {option.replace("_", "-") for option in options_of(name)} | {"--help"}
        for option in options:
            assert option.help, option.shown
            assert option.heading != OTHER, f"{option.shown} has no heading"
            assert f"\n  {option.shown}" in page
            if option.shown.startswith("--"):
                typed = {option.shown, option.shown.replace("--max-", "--max."), f"{option.shown}.target"}
                assert typed & known, option.shown

    def test_names_are_shown_as_they_are_typed(self, capsys: pytest.CaptureFixture[str]) -> None:
        page = help_of(capsys, "search")
        for line in ("--backbone NAME", "--data NAME", "--epochs N", "--max-params X", "--precision {auto,32,bf16}"):
            assert f"\n  {line}" in page
        for word in ("CONFIG", ".target", "--train.", "--max.", "_batch"):
            assert word not in page
        assert page.startswith("usage: se-nas search [OPTIONS]\n\nStart or continue a search.\n")
        headings = [heading for heading in HEADINGS if f"\n{heading}:\n" in page]
        assert len(headings) >= 7
        assert "(default: resnet20)" in " ".join(page.split())

    def test_it_is_as_wide_as_the_terminal(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for columns in (80, 130):
            monkeypatch.setenv("COLUMNS", str(columns))
            widest = max(
                len(line)
                for option in options_in(parser_of("search", COMMANDS["search"]))
                for line in parser_of("search", COMMANDS["search"]).page.splitlines()
                if line.startswith(" " * 26) or line.startswith(f"  {option.shown} ")
            )
            assert columns - 20 < widest < columns


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("shtab", reason="needs the extra completion")
    done = run_python("-m", "se_nas.cli", "completion", "bash")
    assert done.returncode == 0, done.stderr
    file = tmp_path_factory.mktemp("completion") / "se-nas.bash"
    file.write_text(done.stdout)
    return file


def test_every_command_has_its_section_in_the_reference() -> None:
    page = (REPOSITORY / "docs" / "reference" / "commands.md").read_text()
    for name in COMMANDS:
        assert f"\n## {name}\n\n<!-- help of {name} -->\n" in page


class TestCompletion:
    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["se"], {"search"}),
            (["search", "--max-p"], {"--max-params"}),
            (["search", "--backbone", "resnet"], {f"resnet{n}" for n in (8, 14, 20, 32, 56)}),
            (["search", "--precision", ""], {"auto", "32", "bf16"}),
            (["export", "runs/x", "--select", "base"], {"baseline"}),
            (["confirm", str(REPOSITORY / "search_sp")], {str(REPOSITORY / "search_spaces")}),
        ],
        ids=["command", "option", "backbone", "choice", "select", "folder"],
    )
    def test_bash_takes_it_and_completes(self, script: Path, words: list[str], expected: set[str]) -> None:
        """The function that bash would call, called with what it would say."""
        line = ["se-nas", *words]
        program = (
            f"source {shlex.quote(str(script))} || exit 3\n"
            "name=$(complete -p se-nas | sed -E 's/.*-F ([^ ]+) .*/\\1/') || exit 4\n"
            f"COMP_WORDS=({' '.join(map(shlex.quote, line))}); COMP_CWORD={len(line) - 1}\n"
            f'COMPREPLY=(); "$name" se-nas "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"\n'
            'printf "%s\\n" "${COMPREPLY[@]}"\n'
        )
        done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert set(done.stdout.split()) == expected

    def test_another_shell_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        pytest.importorskip("shtab", reason="needs the extra completion")
        assert main(["completion", "powershell"]) == 2
        error = capsys.readouterr().err
        assert "shell is 'powershell'" in error
        assert "bash, zsh" in error

    def test_without_shtab_it_says_how_to_get_it(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(__import__("sys").modules, "shtab", None)
        assert main(["completion", "bash"]) == 2
        assert "pip install 'se-nas[completion]'" in capsys.readouterr().err
