"""Options of the commands about the program itself: env, completion."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from se_nas.commands.shared_options import shown
from se_nas.core.serialization import to_plain


def add_env(parser: ArgumentParser) -> None:
    """The options of ``se-nas env``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_env(given: Namespace) -> int:
    """``se-nas env``; the exit code."""
    from se_nas.commands.environment import environment

    found = environment()
    return shown(given, to_plain(found), lambda _: print("\n".join(found.lines)))


def add_completion(parser: ArgumentParser) -> None:
    """The options of ``se-nas completion``."""
    parser.add_argument("shell", type=str, help="bash, zsh, tcsh or fish")


def run_completion(given: Namespace) -> int:
    """``se-nas completion``; the exit code."""
    from se_nas.commands.completion import completion_script
    from se_nas.commands.options import COMMANDS  # which has this command

    print(completion_script(given.shell, COMMANDS))
    return 0
