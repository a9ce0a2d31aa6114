"""MkDocs: lines of a page that stand for what the program says of itself.

``<!-- help of NAME -->`` becomes what ``se-nas NAME --help`` prints, ``<!-- settings of NAME -->`` a table of the
fields of a dataclass.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
from typing import Any

import docstring_parser

from se_nas.cli import main
from se_nas.core.config import Limits, SearchConfig, TrainConfig
from se_nas.core.trial import Recipe, Target

SETTINGS = {kind.__name__: kind for kind in (SearchConfig, TrainConfig, Recipe, Limits)}


def help_of(command: str) -> str:
    said = io.StringIO()
    os.environ["COLUMNS"] = "110"
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([command, "--help"])
    return f"```text\n{said.getvalue()}```"


def settings_of(name: str) -> str:
    kind = SETTINGS[name]
    meaning = {param.arg_name: param.description for param in docstring_parser.parse(kind.__doc__).params}
    rows = [
        f"| `{field.name}` | {' '.join((meaning[field.name] or '').split())} | {_default(field)} |"
        for field in dataclasses.fields(kind)
    ]
    return "\n".join(["| setting | meaning | default |", "|---|---|---|", *rows])


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if value is dataclasses.MISSING:
        return "must be given"
    if isinstance(value, Recipe | Limits):
        return "see below"
    value = value.target if isinstance(value, Target) else value
    return "" if value in (None, "", [], {}) else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def on_page_markdown(markdown: str, **_: Any) -> str:
    markdown = re.sub(r"^<!-- help of (\w+) -->$", lambda found: help_of(found[1]), markdown, flags=re.M)
    return re.sub(r"^<!-- settings of (\w+) -->$", lambda found: settings_of(found[1]), markdown, flags=re.M)
