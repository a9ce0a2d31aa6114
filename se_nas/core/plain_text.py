"""Text that came from elsewhere, on its way to a terminal or a spreadsheet: names must do nothing there."""

from __future__ import annotations

import re
from typing import TypeVar

T = TypeVar("T")

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line feed; characters that turn the direction of text; halves of characters."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NUMBERS = re.compile(r"[-+]?([\d.,]+(e[-+]?\d+)?)?( ?%)?( to [-+]?[\d.,]+)?", re.IGNORECASE)


def visible(text: str) -> str:
    r"""The text with ``?`` in place of each character that would steer a terminal.

    >>> visible("red\x1b[31m")
    'red?[31m'
    """
    return _CONTROL.sub("?", text)


def as_cell(value: T) -> T | str:
    """A cell of a table, text so that a spreadsheet does not take it for a formula: with a ``'`` before it.

    >>> as_cell("=HYPERLINK(A1)"), as_cell("-0.3 to +0.1"), as_cell(-1)
    ("'=HYPERLINK(A1)", '-0.3 to +0.1', -1)
    """
    if not isinstance(value, str) or not value.lstrip(" ").startswith(_FORMULA) or _NUMBERS.fullmatch(value):
        return value
    return f"'{value}"
