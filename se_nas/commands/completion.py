"""Completion of command lines in a shell: ``se-nas completion bash``.

shtab writes the script once, so that no key press waits for Python. It is given the options as they are typed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from se_nas.commands.help_text import Option, options_in, parser_of
from se_nas.commands.shared_options import Command
from se_nas.core.config import LIGHTNING
from se_nas.core.errors import ConfigError, PluginError

SHELLS = ("bash", "zsh", "tcsh", "fish")


def completion_script(shell: str, commands: Mapping[str, Command]) -> str:
    """The script that completes command lines of se-nas in a shell.

    Raises
    ------
    ConfigError
        For a shell that shtab does not know.
    PluginError
        If shtab is not installed.
    """
    try:
        import shtab  # an extra
    except ImportError as error:
        raise PluginError("completion needs shtab", hint="pip install 'se-nas[completion]'") from error
    known = [name for name in SHELLS if name in shtab.SUPPORTED_SHELLS]
    if shell not in known:
        raise ConfigError(f"shell is {shell!r}", allowed=known)
    parser = argparse.ArgumentParser(prog="se-nas")
    subparsers = parser.add_subparsers()
    names = _names()
    for name, command in commands.items():
        below = subparsers.add_parser(name, help=command.help, add_help=False)
        for option in options_in(parser_of(name, command)):
            _add(below, option, names.get(option.name, option.choices))
    parser.add_argument("--version", action="store_true", help="the version")
    return str(shtab.complete(parser, shell))


def _add(parser: argparse.ArgumentParser, option: Option, choices: tuple[str, ...]) -> None:
    """An option, or what stands without one, with what may follow it."""
    import shtab  # the caller has looked

    text = option.help.replace("%", "%%")
    if option.shown.startswith("-") and not option.value:
        parser.add_argument(option.shown, action="store_true", help=text)
        return
    action = parser.add_argument(option.shown, help=text, choices=choices or None)
    folder = option.value == "FOLDER" or option.name in ("run", "runs", "folder")
    file = option.value == "FILE" or option.name in ("image", "to")
    if folder or file:
        action.complete = shtab.DIRECTORY if folder else shtab.FILE  # type: ignore[attr-defined]  # shtab reads it


def _names() -> dict[str, tuple[str, ...]]:
    """Option -> the built-in names that may follow it."""
    from se_nas.core.ways import WAYS
    from se_nas.engine.trusted import TABLES  # torch, which options need not
    from se_nas.space.spec import builtin_spaces

    tables = {kind: tuple(table) for kind, table in TABLES.items()}
    ways = tuple(way for way in WAYS if "=" not in way)
    return {**tables, "trainer": (LIGHTNING,), "select": ways, "space": tuple(builtin_spaces())}
