"""What ``se-nas`` and ``se-nas COMMAND --help`` print: options as they are typed, under headings, with examples."""

from __future__ import annotations

import shutil
import textwrap
import types
import typing
from argparse import SUPPRESS, Action
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jsonargparse import ArgumentParser

from se_nas.commands.shared_options import Command
from se_nas.core.overrides import GROUPS, TARGETS
from se_nas.core.version import __version__

HEADINGS: dict[str, str] = {
    "Network and data": "backbone data weights space placement input_shape num_classes task trainer run include_val",
    "What is compared": "metric direction margin cost measure latency_batch latency_threads latency_table",
    "Limits on cost": "max_params max_gflops max_macs max_activations max_latency max_memory max_own",
    "How long it searches": "budget max_time early_stopping sampler seed vary_seed top finalists seeds max_seeds",
    "How each network is trained": "epochs batch_size optimizer lr momentum weight_decay schedule warmup "
    "label_smoothing augment class_weights precision",
    "Which network": "select trial images part fold fold_margin format opset max_drop license placements",
    "Where it runs": "executor workers device trials_per_device devices_per_trial graph trial_timeout "
    "checkpoint_minutes",
    "Files": "config out to force storage keep_weights logs trust figures diagram",
    "What is shown": "classes plan progress watch every probe_lr quiet json print_config help",
}
"""Heading -> the options below it, in this order."""

VALUES = {
    "backbone": "NAME", "data": "NAME", "task": "NAME", "trainer": "NAME", "sampler": "NAME", "executor": "NAME",
    "metric": "NAME", "cost": "NAME", "measure": "NAME,...", "space": "NAME", "device": "NAME", "config": "FILE",
    "weights": "FILE", "latency_table": "FILE", "diagram": "FILE", "out": "FOLDER", "figures": "FOLDER",
    "storage": "URL", "input_shape": "C,H,W", "max_time": "TIME", "trial_timeout": "TIME", "max_latency": "TIME",
    "run": "FOLDER", "optimizer": "NAME", "license": "NAME", "format": "NAME,...", "print_config": "",
    "finalists": "PLACEMENT...",
}  # fmt: skip
"""What follows an option, where its type does not say it."""

SAID = {
    "help": "show this help and exit",
    "print_config": "print all settings as YAML for --config, and exit",
}
"""What options mean that argparse has itself."""

ARGUMENTS = (
    "NAME of a network, data set, task, trainer, sampler or executor: arguments follow it, as in --data folder:PATH "
    "--data.args.size 32. It may be your own code: package.module:name or path/to/file.py:name."
)
OTHER = "Options"

LEFT = 26
"""Columns of the options; what they mean stands beside them."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option, or what a command takes without one, as it is typed and shown."""

    name: str
    """Without dashes and group, with underscores: ``max_params``."""
    shown: str
    """``--max-params``, or ``RUN``."""
    value: str
    """What follows it: ``N``, ``{a,b}``; empty for a flag and for what has no dashes."""
    help: str
    heading: str
    choices: tuple[str, ...] = ()


class CommandParser(ArgumentParser):
    """A parser whose help is a page of its own."""

    page: str = ""

    def format_help(self, formatter: Any = None) -> str:
        return self.page or super().format_help()


def parser_of(name: str, command: Command) -> CommandParser:
    """The parser of a command's options."""
    parser = CommandParser(exit_on_error=False, allow_abbrev=False)
    command.add_arguments(parser)
    parser.page = page_of(name, command, parser)
    return parser


def overview(commands: Mapping[str, Command]) -> str:
    """What se-nas can do, on one screen: its commands by group, and an example."""
    lines = [f"se-nas {__version__}: find where Squeeze-and-Excitation blocks help a CNN, and what they cost.", ""]
    for group in dict.fromkeys(command.group for command in commands.values()):
        lines.append(f"{group}:")
        lines += [f"  {name:<12}{c.help}" for name, c in commands.items() if c.group == group]
    return "\n".join(
        [
            *lines,
            "",
            "Try it (digits of scikit-learn, offline, less than a minute):",
            "  se-nas search --backbone resnet8 --budget 4 --epochs 1",
            "",
            "se-nas COMMAND --help: options and examples of a command.  se-nas --version: the version.",
            "",
        ]
    )


def page_of(name: str, command: Command, parser: ArgumentParser) -> str:
    """The help of a command: usage, examples, options under their headings."""
    width = max(60, shutil.get_terminal_size().columns - 2)
    options = options_in(parser)
    taken = " ".join(option.shown for option in options if not option.shown.startswith("-"))
    lines = [f"usage: se-nas {name} {taken}{' ' if taken else ''}[OPTIONS]", ""]
    lines += [*textwrap.wrap(f"{command.help[0].upper()}{command.help[1:]}.", width), ""]
    lines += _block("", options, width)
    if command.examples:
        lines += ["Examples:", *(f"  {example}" for example in command.examples), ""]
    for heading in (*HEADINGS, OTHER):
        lines += _block(heading, options, width)
    if any(option.name in TARGETS for option in options):
        lines += [*textwrap.wrap(ARGUMENTS, width), ""]
    return "\n".join(lines)


def _block(heading: str, options: Sequence[Option], width: int) -> list[str]:
    """The options below a heading, and an empty line; nothing if there are none."""
    below = [line for option in options if option.heading == heading for line in _row(option, width)]
    return [*([f"{heading}:"] if heading else []), *below, ""] if below else []


def _row(option: Option, width: int) -> list[str]:
    """An option with what it means, in two columns."""
    left = f"  {option.shown} {option.value}".rstrip()
    text = textwrap.wrap(option.help, width - LEFT) or [""]
    if len(left) > LEFT - 2:
        return [left, *(" " * LEFT + line for line in text)]
    return [f"{left:<{LEFT}}{text[0]}".rstrip(), *(" " * LEFT + line for line in text[1:])]


def options_in(parser: ArgumentParser) -> list[Option]:
    """The options of a command, in the order in which its help has them."""
    found = list(_found(parser))
    order = [name for names in HEADINGS.values() for name in names.split()]
    known = {name: place for place, name in enumerate(order)}
    return sorted(found, key=lambda option: known.get(option.name, -1 if option.shown[0] != "-" else len(known)))


def _found(parser: ArgumentParser) -> Iterator[Option]:
    heading = {name: title for title, names in HEADINGS.items() for name in names.split()}
    groups = [(g.title or "", action) for g in parser._action_groups for action in g._group_actions]
    dests = {action.dest for _, action in groups}
    for title, action in groups:
        text = title if action.dest.endswith(".target") else action.help or ""
        name, placed = _name(action.dest, dests), bool(action.option_strings)
        if name and action.help != SUPPRESS:
            yield Option(
                name=name,
                shown=f"--{name.replace('_', '-')}" if placed else name.upper(),
                value=_value(action, name) if placed else "",
                help=_meaning(SAID.get(name, text), action.default),
                heading=heading.get(name, OTHER) if placed else "",
                choices=_choices(action),
            )


def _name(dest: str, dests: Collection[str]) -> str:
    """The name of an option as it is typed; empty for one that another stands for."""
    group, _, inner = dest.partition(".")
    if not inner:
        return "" if group in GROUPS or f"{group}.target" in dests else dest
    if inner in ("args", "help"):
        return ""
    return group if inner == "target" else f"max_{inner}" if group == "max" else inner


def _value(action: Action, name: str) -> str:
    """What follows an option: its choices, or a word for its type."""
    if action.nargs == 0:
        return ""
    if choices := _choices(action):
        return f"{{{','.join(choices)}}}"
    kinds = _kinds(action)
    by_type = "N" if int in kinds else "X" if float in kinds else name.rpartition("_")[2].upper()
    return VALUES.get(name, by_type)


def _choices(action: Action) -> tuple[str, ...]:
    for kind in _kinds(action):
        if typing.get_origin(kind) is Literal:
            return tuple(map(str, typing.get_args(kind)))
    return ("true", "false") if bool in _kinds(action) else ()


def _kinds(action: Action) -> tuple[Any, ...]:
    """The type of an option, or the types that it may have."""
    kind = getattr(action, "_typehint", action.type)
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if union else (kind,)


def _meaning(text: str, default: object) -> str:
    """What an option means, and its default where that is not said."""
    text = " ".join(text.replace("``", "").split()).removesuffix(".")
    if default in (None, "", SUPPRESS) or isinstance(default, bool | list | dict) or "default" in text:
        return text if default is not True or "default" in text else f"{text} (default: true)"
    return f"{text} (default: {default:g})" if isinstance(default, float) else f"{text} (default: {default})"
