"""What the options of several commands share.

Heavy libraries are imported where a command runs, so that ``--help`` and a wrong option are answered at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from jsonargparse import ArgumentParser, Namespace

from se_nas.core.overrides import target_of
from se_nas.core.serialization import to_plain
from se_nas.core.trial import Target
from se_nas.report.view import Progress, View

if TYPE_CHECKING:
    from se_nas.commands.describe import Catalogue

T = TypeVar("T")
Options = Callable[[ArgumentParser], None]
Run = Callable[[Namespace], int]


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command: its options, and what it does with them; `run` returns the exit code."""

    group: str
    """Where the list of commands has it."""
    help: str
    examples: tuple[str, ...] = ()
    add_arguments: Options
    run: Run
    config: type | None = None
    """What a configuration file for it holds."""


def shown(given: Namespace, content: T, show: Callable[[T], object]) -> int:
    """Print content for a program or for a person; the exit code."""
    if given.json:
        print(json.dumps(content.as_json() if hasattr(content, "as_json") else to_plain(content)))
    else:
        show(content)
    return 0


def settings_of(given: Namespace, kind: type) -> dict[str, Any]:
    """The fields of a configuration among the options."""
    plain = given.as_dict()
    return {f.name: plain[f.name] for f in dataclasses.fields(kind)}


def add_display(parser: ArgumentParser) -> None:
    """How much is shown."""
    parser.add_argument(
        "--progress", type=Progress, default="auto",
        help="live: drawn again and again; plain: a line for each epoch, and one every 30 s; none; auto: live in a "
        "terminal, plain elsewhere",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="show only errors and the result")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on standard output")


LOADING = "loading PyTorch and Lightning"
"""What takes the first seconds of a command."""


@contextlib.contextmanager
def at_work(given: Namespace) -> Iterator[View]:
    """A view for a command that prints nothing before its result: it says at once that something is done.

    In a terminal that is gone when the context ends; elsewhere it is a line on standard error.
    """
    with View(quiet=given.json) as view:
        view.stage(LOADING)
        yield view


def view_of(given: Namespace, first: str) -> View:
    """What shows progress, after its first word: what follows takes seconds to load."""
    view = View(quiet=given.quiet or given.json, progress=given.progress)
    view.say(first)
    return view


def add_storage(parser: ArgumentParser) -> None:
    """Which storage a run folder may use."""
    parser.add_argument(
        "--storage", type=str | None, default=None, help="the storage that the run folder names, if it names one"
    )


def add_trust(parser: ArgumentParser) -> None:
    """Whether code that a folder names is run."""
    parser.add_argument(
        "--trust", action="store_true",
        help="run code named in the folder even if it has never been named on this machine",
    )  # fmt: skip


def add_backbone(parser: ArgumentParser) -> None:
    """Which backbone, and for which data and space."""
    add = parser.add_argument
    add("--backbone", type=Target, default=Target(target="resnet20"), help="the CNN")
    add("--data", type=Target | None, default=None, help="take image shape and classes from a data set")
    add("--space", type=str, default="stagewise", help="stagewise, blockwise, on-off or a YAML file")
    add(
        "--input_shape", type=str, default=None,
        help="channels,height,width; default that of the digits for built-in backbones, else 3,224,224",
    )  # fmt: skip
    add("--num_classes", type=int, default=None, help="default: as the data set has, or the backbone")


def catalogue_of(given: Namespace, view: View) -> Catalogue:
    """The catalogue of the backbone that the options name."""
    from se_nas.commands.describe import describe

    view.stage(f"building {given.backbone.target} and finding its sites")
    return describe(
        target_of("backbone", given.backbone.as_dict()),
        data=None if given.data is None else target_of("data", given.data.as_dict()),
        input_shape=given.input_shape,
        num_classes=given.num_classes,
        space=given.space,
    )
