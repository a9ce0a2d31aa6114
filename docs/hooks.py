"""MkDocs: a line ``<!-- help of NAME -->`` becomes what ``se-nas NAME --help`` prints."""

from __future__ import annotations

import contextlib
import io
import os
import re
from typing import Any

from se_nas.cli import main


def help_of(command: str) -> str:
    said = io.StringIO()
    os.environ["COLUMNS"] = "110"
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([command, "--help"])
    return said.getvalue()


def on_page_markdown(markdown: str, **_: Any) -> str:
    return re.sub(r"^<!-- help of (\w+) -->$", lambda found: f"```text\n{help_of(found[1])}```", markdown, flags=re.M)
