"""The command line: ``se-nas search | confirm | train | sites | cost | report | compare | export``.

Heavy libraries are imported inside the commands, so that ``--help`` and a wrong option are answered at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from se_nas.config import SHARED, Limits, SearchConfig, TrainConfig
from se_nas.errors import ConfigError, SeNasError, did_you_mean
from se_nas.records import Recipe, Target

if TYPE_CHECKING:
    from se_nas.catalogue import Catalogue

TARGETS = ("backbone", "data", "task", "sampler", "executor")

# Options that may be given without the name of their group: --epochs for --train.epochs, --max-params for --max.params.
SHORT = {f.name: f"train.{f.name}" for f in dataclasses.fields(Recipe)} | {
    f"max_{f.name}": f"max.{f.name}" for f in dataclasses.fields(Limits)
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for a mistake of the user, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        parser = build_parser()
        given = _parse(parser, arguments)
        return COMMANDS[given.command](given[given.command])
    except SeNasError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0


def build_parser() -> ArgumentParser:
    """The parser of all commands."""
    parser = ArgumentParser(
        prog="se-nas",
        description="Find where Squeeze-and-Excitation blocks help a CNN, and what they cost.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    commands = parser.add_subcommands(required=True, dest="command")
    search = _command()
    search.add_argument("--config", action="config", help="YAML file with any of these options")
    search.add_class_arguments(SearchConfig, None)
    search.add_argument("--quiet", action="store_true", help="show nothing but errors and the result")
    search.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    commands.add_subcommand("search", search, help="search, or go on with a search")

    for name, text in (("sites", "list where SE blocks may sit"), ("cost", "exact cost of a placement")):
        command = _command()
        _backbone_arguments(command)
        if name == "cost":
            command.add_argument(
                "--placement", type=str, default="all:16", help="none, keep, all:R, STAGE=R,... or a .json file"
            )
        command.add_argument("--json", action="store_true", help="print JSON")
        commands.add_subcommand(name, command, help=text)

    confirm = _command()
    confirm.add_argument("run", type=str, help="run folder of a search")
    confirm.add_argument("--top", type=int, default=3, help="finalists: members of the front, best first")
    confirm.add_argument("--seeds", type=int, default=5, help="fresh seeds, the same for all networks")
    confirm.add_argument("--epochs", type=int | None, default=None, help="full schedule; default that of the search")
    confirm.add_argument("--workers", type=int | None, default=None, help="trainings at a time; default as searched")
    confirm.add_argument("--device", type=str | None, default=None, help="auto, cpu, cuda, cuda:N; default as searched")
    confirm.add_argument("--executor", type=Target | None, default=None, help="local, inline, ray; default as searched")
    confirm.add_argument("--quiet", action="store_true", help="show nothing but errors and the result")
    confirm.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    commands.add_subcommand("confirm", confirm, help="retrain the finalists with fresh seeds, then open the test part")

    train = _command()
    train.add_argument("--config", action="config", help="YAML file with any of these options, or of a run")
    train.add_class_arguments(TrainConfig, None)
    train.add_argument("--quiet", action="store_true", help="show nothing but errors and the result")
    train.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    commands.add_subcommand("train", train, help="train one placement for good, then open the test part")

    report = _command()
    report.add_argument("run", type=str, help="run folder")
    report.add_argument("--watch", action="store_true", help="write report.html again and again while the search runs")
    report.add_argument("--every", type=float, default=5.0, help="seconds between two versions of a watched page")
    report.add_argument(
        "--figures", type=str | None, default=None,
        help="folder for figures (PNG, SVG, PDF) and tables (CSV, Markdown, LaTeX) of front and effects",
    )  # fmt: skip
    report.add_argument("--json", action="store_true", help="print the result as JSON")
    commands.add_subcommand("report", report, help="make report.html and all other views again, from the study alone")

    compare = _command()
    compare.add_argument("runs", type=str, nargs="+", help="run folders, two or more")
    compare.add_argument("--cost", type=str | None, default=None, help="cost axis; default the first of the first run")
    compare.add_argument("--to", type=str, default="compare", help="folder for the page, the figures and the tables")
    compare.add_argument("--json", action="store_true", help="print the result as JSON")
    commands.add_subcommand("compare", compare, help="fronts of several runs in one page, figure and table")

    export = _command()
    export.add_argument("run", type=str, help="run folder")
    export.add_argument(
        "--select", type=str, default="best",
        help="best, knee, baseline, reference, given, trial=N, max-params=X, max-latency=X or max-COST=X",
    )  # fmt: skip
    export.add_argument(
        "--format", type=str, default="safetensors",
        help="safetensors, python, pt2, pt2-half, onnx, onnx-half, onnx-int8, torchscript; several with commas",
    )  # fmt: skip
    export.add_argument("--to", type=str, default=None, help="folder to write; default RUN/export-KEY")
    export.add_argument("--force", action="store_true", help="replace an export that is there already")
    export.add_argument("--license", type=str, default="", help="license for the model card, such as apache-2.0")
    export.add_argument("--opset", type=int, default=20, help="version of the ONNX operator set")
    export.add_argument(
        "--max_drop", type=float, default=0.02, help="accuracy that half precision and int8 may lose (0.02: 2 points)"
    )
    export.add_argument("--json", action="store_true", help="print folder and proofs as JSON")
    commands.add_subcommand("export", export, help="write a network of a run to a folder, each format proven equal")
    return parser


def _command() -> ArgumentParser:
    return ArgumentParser(exit_on_error=False, allow_abbrev=False)


def _backbone_arguments(command: ArgumentParser) -> None:
    command.add_argument("--backbone", type=Target, default=Target(target="resnet20"), help="the CNN")
    command.add_argument(
        "--data", type=Target | None, default=None, help="take image shape and classes from a data set"
    )
    command.add_argument("--space", type=str, default="stagewise", help="stagewise, blockwise, on-off or a YAML file")
    command.add_argument(
        "--input_shape", type=str, default=None,
        help="channels,height,width; default that of the digits for built-in backbones, else 3,224,224",
    )  # fmt: skip
    command.add_argument("--num_classes", type=int, default=None, help="default: as the data set has, or the backbone")


def _parse(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    arguments = _rewritten(arguments)
    if arguments[:1] == ["train"]:
        arguments = ["train", *_of_the_run(arguments[1:]), *arguments[1:]]
    try:
        parsed = parser.parse_args(arguments)
        instantiated: Namespace = parser.instantiate(parsed)
        return instantiated
    except argparse.ArgumentError as error:
        raise _clear(str(error), parser, arguments) from error


def _rewritten(arguments: list[str]) -> list[str]:
    """The arguments with dashes as underscores, short names in full, and the configuration file read."""
    result: list[str] = []
    command = arguments[0] if arguments else ""
    short = SHORT if command in ("search", "train") else {}
    for index, argument in enumerate(arguments):
        if not argument.startswith("--"):
            previous = arguments[index - 1] if index else ""
            result.append(_read_config(argument, command=command) if previous == "--config" else argument)
            continue
        name, equals, value = argument[2:].partition("=")
        head, dot, rest = name.partition(".")
        head = head.replace("-", "_")
        name = f"{head}{dot}{rest}"
        name = f"{name}.target" if name in TARGETS else short.get(name, name)
        value = _read_config(value, command=command) if name == "config" and equals else value
        result.append(f"--{name}{equals}{value}")
    return result


def _of_the_run(arguments: list[str]) -> list[str]:
    """The settings of the run that the placement file lies in, as a configuration that later options override."""
    values = [a.partition("=")[2] or b for a, b in zip(arguments, [*arguments[1:], ""], strict=True)
              if a.partition("=")[0] == "--placement"]  # fmt: skip
    file = Path(values[-1]).expanduser() if values and values[-1].endswith(".json") else None
    if file is None or not file.is_file():
        return []
    for folder in (file.parent, file.parent.parent):
        if (folder / "config.yaml").is_file():
            return ["--config", _read_config(str(folder / "config.yaml"), command="train")]
    try:
        raw = json.loads(file.read_text())
    except (OSError, ValueError):
        return []  # said where the placement is read
    return (
        ["--config", json.dumps({"backbone": raw["backbone"]})] if isinstance(raw, dict) and "backbone" in raw else []
    )


def _read_config(file: str, *, command: str) -> str:
    """A configuration file as one line of JSON, its keys checked; a plain string stands for a target.

    A training takes from the configuration of a search what both have in common, but not its run folder.
    """
    try:
        raw = yaml.safe_load(Path(file).expanduser().read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {file!r}: {getattr(error, 'strerror', error)}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}", where=file) from error
    if not isinstance(raw, Mapping):
        raise ConfigError("a configuration is a mapping of keys to values", where=file)
    content = {k: {"target": v} if k in TARGETS and isinstance(v, str) else v for k, v in raw.items()}
    known: Any = SearchConfig if "placement" not in content else TrainConfig
    _check_keys(content, known, file, "")
    if (
        command == "train"
        and "placement" not in content
        and content.keys() - {f.name for f in dataclasses.fields(TrainConfig)}
    ):
        content = {k: v for k, v in content.items() if k in SHARED and k != "out"}
    return json.dumps(content)


def _check_keys(content: Mapping[str, Any], kind: Any, file: str, path: str) -> None:
    known = {f.name for f in dataclasses.fields(kind)}
    whole = kind in (SearchConfig, TrainConfig)
    known |= {"quiet", "json"} if whole else set()  # --print_config prints them
    nested = {"train": Recipe, "max": Limits, **dict.fromkeys(TARGETS, Target)} if whole else {}
    for key, value in content.items():
        if key not in known:
            raise ConfigError(
                f"unknown key {path + str(key)!r}",
                where=file,
                allowed=sorted(known),
                hint=did_you_mean(str(key), known),
            )
        if key in nested and isinstance(value, Mapping):
            _check_keys(value, nested[key], file, f"{key}.")


def _clear(message: str, parser: ArgumentParser, arguments: list[str]) -> ConfigError:
    """jsonargparse's message as what was given, what is allowed and a hint."""
    if match := re.search(r"unrecognized arguments: (\S+)", message, re.IGNORECASE):
        wrong = match[1].partition("=")[0]
        options = sorted({*re.findall(r"--[a-z_.]+", _help_of(parser, arguments)), *(f"--{name}" for name in SHORT)})
        return ConfigError(f"unknown option {wrong}", hint=did_you_mean(wrong, options) or "see se-nas --help")
    if match := re.search(r"argument command: invalid choice: '([^']+)'", message):
        return ConfigError(
            f"unknown command {match[1]!r}",
            allowed=COMMANDS,
            hint=did_you_mean(match[1], COMMANDS) or "see se-nas --help",
        )
    if match := re.search(r'key "([^"]+)":\s*(.*?)\.? Got value: (.*)', message, re.DOTALL):
        allowed = re.findall(r"'([^']+)'", match[2]) or [match[2].strip()]
        value = match[3].strip().splitlines()[0]
        return ConfigError(f"{match[1]} is {value!r}", allowed=allowed)
    return ConfigError(" ".join(message.split()), hint="see se-nas --help")


def _help_of(parser: ArgumentParser, arguments: list[str]) -> str:
    command = next((a for a in arguments if a in COMMANDS), None)
    if command is None:
        return str(parser.format_help())
    for action in parser._actions:  # argparse has no public way to a subcommand's parser
        if isinstance(action.choices, Mapping) and command in action.choices:
            return str(action.choices[command].format_help())
    return ""


def _search(given: Namespace) -> int:
    from se_nas.executors.local import warm_up  # the workers load their libraries while we load ours

    settings = {f.name: getattr(given, f.name) for f in dataclasses.fields(SearchConfig)}
    config = SearchConfig(**settings)
    if config.executor.target == "local":
        warm_up()
    from se_nas.search import search
    from se_nas.view import View, show_result

    result = search(config, view=View(quiet=given.quiet or given.json))
    if given.json:
        print(json.dumps(result.summary))
    else:
        show_result(result.summary)
    return 130 if result.ended == "interrupted" else 0


def _confirm(given: Namespace) -> int:
    from se_nas.executors.local import warm_up

    warm_up()
    from se_nas.confirm import confirm
    from se_nas.records import to_plain
    from se_nas.view import View, show_confirmed

    result = confirm(
        given.run,
        top=given.top,
        seeds=given.seeds,
        epochs=given.epochs,
        workers=given.workers,
        device=given.device,
        executor=given.executor,
        view=View(quiet=given.quiet or given.json),
    )
    if given.json:
        print(json.dumps(to_plain(result)))
    else:
        show_confirmed(result, given.run)
    return 0


def _train(given: Namespace) -> int:
    config = TrainConfig(**{f.name: getattr(given, f.name) for f in dataclasses.fields(TrainConfig)})
    from se_nas.final import train_placement
    from se_nas.view import View

    result = train_placement(config, view=View(quiet=given.quiet or given.json))
    if given.json:
        placement = result.trial.placement
        content = {
            "out": str(result.folder), "placement": placement.label, "key": placement.key,
            "validation": result.trial.metrics[result.metric].value, "test": result.test,
            "openings": result.openings, "note": result.note,
        }  # fmt: skip
        print(json.dumps(content))
    else:
        print("\n".join(result.sentences))
    return 0


def _sites(given: Namespace) -> int:
    found = _described(given)
    if given.json:
        print(json.dumps(found.sites()))
    else:
        found.show_sites()
    return 0


def _cost(given: Namespace) -> int:
    from se_nas.catalogue import show_cost

    content = _described(given).cost(given.placement)
    if given.json:
        print(json.dumps(content))
    else:
        show_cost(content)
    return 0


def _described(given: Namespace) -> Catalogue:
    from se_nas.catalogue import describe

    return describe(
        given.backbone,
        data=given.data,
        input_shape=given.input_shape,
        num_classes=given.num_classes,
        space=given.space,
    )


def _report(given: Namespace) -> int:
    from se_nas.live import watch
    from se_nas.results import report_again
    from se_nas.view import View, show_result

    figures = None if given.figures is None else Path(given.figures)
    if given.every <= 0:
        raise ConfigError(f"every is {given.every}", allowed=["a number of seconds above 0"])
    if given.watch:
        content = watch(Path(given.run), every=given.every, view=View(quiet=given.json), figures=figures)
    else:
        content = report_again(Path(given.run), figures=figures)
    if given.json:
        print(json.dumps(content))
    else:
        show_result(content)
    return 0


def _compare(given: Namespace) -> int:
    from se_nas.compare import compare
    from se_nas.view import show_comparison

    content = compare([Path(run) for run in given.runs], Path(given.to), cost=given.cost)
    if given.json:
        print(json.dumps(content))
    else:
        show_comparison(content)
    return 0


def _export(given: Namespace) -> int:
    from se_nas.records import to_plain
    from se_nas.shipping import export
    from se_nas.view import show_export

    done = export(
        given.run,
        select=given.select,
        formats=given.format,
        to=given.to,
        force=given.force,
        license=given.license,
        opset=given.opset,
        max_drop=given.max_drop,
    )
    proofs = to_plain(done.proofs)
    if given.json:
        print(json.dumps({"folder": str(done.folder), "proofs": proofs}))
    else:
        show_export(str(done.folder), proofs)
    return 0


COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "search": _search,
    "confirm": _confirm,
    "train": _train,
    "sites": _sites,
    "cost": _cost,
    "report": _report,
    "compare": _compare,
    "export": _export,
}

if __name__ == "__main__":
    sys.exit(main())
