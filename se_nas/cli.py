"""The command line: ``se-nas COMMAND``.

`se_nas.commands.options` has the commands; here is how a line becomes a call, and a mistake a message.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace, get_loader
from yaml import YAMLError

from se_nas.commands.help_text import CommandParser, options_in, overview, parser_of
from se_nas.commands.options import COMMANDS
from se_nas.core.config import SearchConfig, TrainConfig
from se_nas.core.documents import LARGEST_JSON, BeyondError, UnreadableError, check_yaml, from_json_text, text_of
from se_nas.core.errors import ConfigError, SeNasError, did_you_mean
from se_nas.core.files import path_text, user_path
from se_nas.core.latency_names import LATENCY, milliseconds
from se_nas.core.overrides import SHORT, TARGETS, WORDS, build, grouped, names_of, read_config, wrong_value
from se_nas.core.own_blocks import named_blocks, own_blocks
from se_nas.core.placement import Placement
from se_nas.core.serialization import from_plain
from se_nas.core.trust import check_trust
from se_nas.core.version import __version__

LATENCY_LIMIT = f"max.{LATENCY}"
"""The option that limits latency, in full."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for a mistake of the user, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        print(overview(COMMANDS), end="", file=sys.stderr)
        return 2
    try:
        given = parse(arguments)
        return COMMANDS[given.command].run(given[given.command])
    except SeNasError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0


def parse(arguments: Sequence[str]) -> Namespace:
    """The values of a command line: the name of the command under ``command``, its options under that name.

    ConfigError for anything that is wrong with it.
    """
    name = arguments[0] if arguments else ""
    for word in arguments:
        if not word.isascii() and path_text(word) != word:
            raise ConfigError(f"{path_text(word)!r} is not UTF-8", hint="give a link to it that has another name")
        _check_word(word)
    words = _spelled_out(arguments, COMMANDS[name].config if name in COMMANDS else None)
    if name == "train":
        words[1:1] = _of_the_run(words)
    try:
        return _parser().parse_args(words)
    except (argparse.ArgumentError, ArithmeticError, ValueError, TypeError, AttributeError) as error:
        raise _clear(str(error), name) from error


def _check_word(word: str) -> None:
    """ConfigError for a value that jsonargparse, which reads it as YAML, would fail or never end at."""
    value = word.partition("=")[2] if word.startswith("--") else word
    try:
        check_yaml(value)
        get_loader("yaml")(value)
    except BeyondError as error:
        raise ConfigError(f"{value!r} cannot be used: {error}") from error
    except (UnreadableError, YAMLError):
        return  # text
    except Exception as error:  # a number of 5,000 digits, !!timestamp x
        raise ConfigError(f"{value!r} cannot be read: {error}") from error


@functools.cache
def _parser() -> ArgumentParser:
    parser = CommandParser(prog="se-nas", version=__version__, exit_on_error=False, allow_abbrev=False)
    parser.page = overview(COMMANDS)
    commands = parser.add_subcommands(required=True, dest="command")
    for known, command in COMMANDS.items():
        commands.add_subcommand(known, parser_of(known, command), help=command.help)
    return parser


def options_of(command: str) -> list[str]:
    """The options of a command as ``--name``, short ones included."""
    short = [f"--{name}" for name in short_names(COMMANDS[command].config)]
    own = (string for action in parser_of(command, COMMANDS[command])._actions for string in action.option_strings)
    return sorted({string for string in own if string.startswith("--")} | set(short))


def short_names(config: type | None) -> dict[str, str]:
    """Options that may be given without the name of their group: epochs for train.epochs."""
    return {} if config is None else {name: ".".join(SHORT[name]) for name in names_of(config) if name in SHORT}


def _spelled_out(arguments: Sequence[str], config: type | None) -> list[str]:
    """The arguments with dashes as underscores, short names in full, and a configuration file as its content."""
    short = short_names(config)
    result: list[str] = []
    for previous, argument in zip(["", *arguments], arguments, strict=False):
        if not argument.startswith("--"):
            option = result[-1].removeprefix("--") if previous.startswith("--") and "=" not in previous else ""
            result.append(_content(argument, config) if previous == "--config" else _plain(option, argument))
            continue
        name, equals, value = argument[2:].partition("=")
        name, at, runtime = name.partition("@")
        head, dot, rest = name.partition(".")
        name = head.replace("-", "_") + dot + rest
        name = f"{name}.target" if name in TARGETS else short.get(name, name)
        if at and name == LATENCY_LIMIT:
            name = LATENCY_LIMIT if runtime == "torch" else f"max.own.{LATENCY}@{runtime}"
        elif at:
            name += at + runtime
        value = _content(value, config) if name == "config" and equals else _plain(name, value) if equals else value
        result.append(f"--{name}{equals}{value}")
    return result


def _plain(option: str, value: str) -> str:
    """The value of an option with a unit as a number, and names with commas as a list, where it wants that."""
    if option == LATENCY_LIMIT or option.startswith(f"max.own.{LATENCY}@"):
        return str(milliseconds(value))
    return f"[{value}]" if option == "measure" and value and value[0] not in "[-{\"'" else value


def _content(file: str, config: type | None) -> str:
    return file if config is None else json.dumps(read_config(file, config))


def _of_the_run(arguments: Sequence[str]) -> list[str]:
    """The settings of the run that the placement file lies in, as a configuration that later options override.

    PluginError if the run names code that may not be followed; see `se_nas.core.trust`.
    """
    values = [a.partition("=")[2] or b for a, b in zip(arguments, [*arguments[1:], ""], strict=True)
              if a.partition("=")[0] == "--placement"]  # fmt: skip
    file = user_path(values[-1]) if values and values[-1].endswith(".json") else None
    if file is None or not file.is_file():
        return []
    try:
        raw = from_json_text(text_of(file, largest=LARGEST_JSON))
    except (OSError, UnreadableError):
        return []  # said where the placement is read
    _check_blocks(file, raw, arguments)
    for folder in (file.parent, file.parent.parent):
        if (folder / "config.yaml").is_file():
            return _followed(folder, read_config(str(folder / "config.yaml"), TrainConfig), arguments)
    there = isinstance(raw, dict) and "backbone" in raw
    return _followed(file.parent, {"backbone": raw["backbone"]}, arguments) if there else []


def _check_blocks(file: Path, raw: Any, arguments: Sequence[str]) -> None:
    """PluginError if a placement file names blocks whose code may not be run."""
    try:
        placement = from_plain(raw.get("placement", raw) if isinstance(raw, dict) else raw, Placement)
    except SeNasError:  # said where it is read
        return
    trust = any(argument.partition("=")[0] == "--trust" for argument in arguments)
    check_trust(named_blocks(own_blocks(placement.choices.values())), where=file, trust=trust)


def _followed(folder: Path, settings: dict[str, Any], arguments: Sequence[str]) -> list[str]:
    """Settings of a folder as a configuration, if the names in it may be followed; those given now count as such."""
    from se_nas.engine.trusted import check_config  # its tables of plug-ins import torch, which a training needs anyway

    options = {a.partition("=")[0].removeprefix("--") for a in arguments if a.startswith("--")}
    given = {name for name in (*TARGETS, "optimizer") if options & {f"{name}.target", f"train.{name}"}}
    config = build(grouped(settings, SearchConfig), SearchConfig, base=SearchConfig())
    check_config(config, where=folder, trust="trust" in options, given={*given, "sampler"})
    return ["--config", json.dumps(settings)]


def _clear(message: str, command: str) -> ConfigError:
    """jsonargparse's message as what was given, what is allowed and a hint."""
    see = f"see se-nas {command} --help" if command in COMMANDS else "see se-nas --help"
    if command in COMMANDS and (match := re.search(r"arguments are required: (.+)", message)):
        missing = [name.strip().removeprefix(f"{command}.").removesuffix(".target") for name in match[1].split(",")]
        shown = {o.name: o.shown for o in options_in(parser_of(command, COMMANDS[command]))}
        return ConfigError(
            f"se-nas {command} needs {' and '.join(shown.get(name, name) for name in missing)}", hint=see
        )
    if match := re.search(r"unrecognized arguments: (\S+)", message, re.IGNORECASE):
        wrong = match[1].partition("=")[0]
        options = options_of(command) if command in COMMANDS else []
        return ConfigError(f"unknown option {wrong}", hint=did_you_mean(wrong, options) or see)
    if match := re.search(r"argument command: invalid choice: '([^']+)'", message):
        return ConfigError(
            f"unknown command {match[1]!r}",
            allowed=COMMANDS,
            hint=did_you_mean(match[1], COMMANDS) or "see se-nas --help",
        )
    if match := re.search(r'key "([^"]+)":\s*(.*?)\.?\s+(?:Got|Given) value: (.*)', message, re.DOTALL):
        path, value = match[1].removeprefix(f"{command}."), next(iter(match[3].strip().splitlines()), "")
        config = COMMANDS[command].config if command in COMMANDS else None
        if config is not None and (error := wrong_value(config, path, value)) is not None:
            return error
        expected = match[2].partition("Given value type")[0].strip()
        kinds = dict.fromkeys(re.findall(r"'(\w+)'", expected) or [expected])
        shown = {o.name: o.shown for o in options_in(parser_of(command, COMMANDS[command]))}
        return ConfigError(
            f"{shown.get(path, path)} is {value!r}", allowed=[w for kind in kinds for w in WORDS.get(kind, (kind,))]
        )
    return ConfigError(" ".join(message.replace(f"{command}.", "").split()), hint=see)


if __name__ == "__main__":
    sys.exit(main())
