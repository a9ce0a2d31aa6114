"""Options of the commands to begin with, and about the program itself: init, env, completion."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from se_nas.commands.early import check_data
from se_nas.commands.shared_options import at_work, shown
from se_nas.core.errors import ConfigError
from se_nas.core.files import user_path, write_atomically
from se_nas.core.overrides import target_of
from se_nas.core.serialization import to_plain
from se_nas.core.trial import Target


def add_init(parser: ArgumentParser) -> None:
    """The options of ``se-nas init``."""
    add = parser.add_argument
    add("--backbone", type=Target, default=Target(target="resnet20"), help="the CNN, as for a search")
    add("--data", type=Target, default=Target(target="digits"), help="the data set, as for a search")
    add("--budget", type=int, default=50, help="number of trainings")
    add("--epochs", type=int, default=10, help="passes over the training set")
    add("--to", type=str, default="search.yaml", help="the file to write")
    add("--force", action="store_true", help="replace a file that is there already")
    add("--json", action="store_true", help="print what was found as JSON")


def run_init(given: Namespace) -> int:
    """``se-nas init``; the exit code."""
    data = target_of("data", given.data.as_dict())
    check_data(data)
    with at_work(given) as view:
        from se_nas.commands.init import init

        view.stage(f"looking at {given.backbone.target} and {data.target}")
        found = init(
            target_of("backbone", given.backbone.as_dict()),
            data,
            given.to,
            budget=given.budget,
            epochs=given.epochs,
            force=given.force,
        )
    return shown(given, found, lambda _: print("\n".join(found.lines)))


def add_env(parser: ArgumentParser) -> None:
    """The options of ``se-nas env``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_env(given: Namespace) -> int:
    """``se-nas env``; the exit code."""
    with at_work(given):
        from se_nas.commands.environment import environment

        found = environment()
    return shown(given, to_plain(found), lambda _: print("\n".join(found.lines)))


def add_completion(parser: ArgumentParser) -> None:
    """The options of ``se-nas completion``."""
    parser.add_argument("shell", type=str, help="bash, zsh, tcsh or fish")
    parser.add_argument("--to", type=str | None, default=None, help="the file to write; default standard output")


def run_completion(given: Namespace) -> int:
    """``se-nas completion``; the exit code."""
    from se_nas.commands.completion import completion_script
    from se_nas.commands.options import COMMANDS  # which has this command

    script = completion_script(given.shell, COMMANDS)
    if given.to is None:
        print(script)
        return 0
    try:
        write_atomically(user_path(given.to), script.encode())
    except OSError as error:
        raise ConfigError(f"cannot write {given.to!r}: {error.strerror or error}") from error
    return 0
