"""Inputs that are nearly right: junk values, broken data, mutations of what is right."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import yaml
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

NAMES = ("", " ", ".", "..", "~", "~nouser/x", "a\0b", "\udcff", "x" * 300, "x/" * 3000, "ä", "{}", "%20", "?", "*",
         "-",
         "--", "/dev/null", "/dev/zero", "\x1b[31m", "a\nb", "=1+1", "[red]", "a:b", "a.py:b", "/", "con", "\u202e",
         "x.json", "x.yaml", "none", "keep", "all", "null", "true", "1", "nan")  # fmt: skip
NUMBERS = (0, -1, 1, 2, 3, 16, 10**9, 2**31, 2**32, 2**63, 2**64, 10**12, 10**30, -(10**30), 0.0, -0.0, 1e-300, 1e-5,
           0.5, 1e300, float("inf"), float("-inf"), float("nan"), True, False)  # fmt: skip
TEXTS = ("[" * 500, "{a: " * 500, "[" * 200_000, "- " * 3000, "&a [*a]", "1:" * 5000 + "1", "9" * 5000,
         "0x" + "f" * 400,
         "2001-99-99", "!!float x", "!!timestamp x", "!!python/object/apply:os.system ['true']", "!!binary =",
         "{<<: 3}",
         "? [a]\n: 1", "*a", "a: 1\na: 2", "\x00", "%YAML 9.9\n---\n1", "~", ".nan", ".inf", "1e400", "'", '"',
         "\ufeff1", "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
             f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi",
             strict=True)))  # fmt: skip

texts = st.one_of(st.sampled_from(NAMES), st.sampled_from(TEXTS), st.text(max_size=20))
scalars = st.one_of(
    st.none(), st.sampled_from(NUMBERS), st.integers(), st.floats(), st.sampled_from(NAMES), st.text(max_size=8)
)
junk = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


values = st.one_of(junk, st.sampled_from([60, 400]).map(nested))


@st.composite
def mutated(draw: DrawFn, base: Any, *, most: int = 3) -> Any:
    """Plain data with up to `most` of its values exchanged, removed, doubled or added."""
    data = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, most))):
        place, key = _somewhere(draw, data)
        if place is None:
            return draw(values)
        change = draw(st.sampled_from(["exchange", "exchange", "exchange", "remove", "add", "near"]))
        if change == "exchange":
            place[key] = draw(values)
        elif change == "near" and isinstance(place[key], int | float | str) and not isinstance(place[key], bool):
            place[key] = draw(_near(place[key]))
        elif change == "remove":
            del place[key]
        elif isinstance(place, dict):
            place[draw(st.one_of(texts, st.sampled_from(sorted(map(str, place)))))] = draw(values)
        else:
            place.insert(key, copy.deepcopy(place[key]))
    return data


def _near(value: float | str) -> SearchStrategy[Any]:
    if isinstance(value, str):
        return st.sampled_from([value + value, value[:-1], value.upper(), value + "\0", value[::-1], value + " "])
    return st.sampled_from([-value, value + 1, value * 1000, value / 1000, str(value), [value]])


def _somewhere(draw: DrawFn, data: Any) -> tuple[Any, Any]:
    """A container and a key in it; deeper ones as likely as others."""
    place, key = None, None
    while isinstance(data, dict | list) and data:
        place, key = data, draw(st.sampled_from(sorted(data, key=str) if isinstance(data, dict) else range(len(data))))
        data = place[key]
        if draw(st.integers(0, 3)) == 0:
            break
    return place, key


@st.composite
def broken(draw: DrawFn, content: bytes) -> bytes:
    """Bytes that were cut, with some of them changed, doubled, or something else altogether."""
    match draw(st.integers(0, 4)):
        case 0:
            return content[: draw(st.integers(0, len(content)))]
        case 1:
            return draw(st.binary(max_size=40))
        case 2:
            return content + content
        case _:
            result = bytearray(content)
            for _ in range(draw(st.integers(1, 8))):
                result[draw(st.integers(0, max(0, len(result) - 1)))] = draw(st.integers(0, 255))
            return bytes(result)


@st.composite
def documents(draw: DrawFn, settings: dict[str, SearchStrategy[Any]]) -> bytes:
    """A YAML (or JSON) file of some settings, right ones and others, or a text that is none."""
    match draw(st.integers(0, 19)):
        case 0:
            return draw(texts).encode("utf-8", "surrogatepass")
        case 1:
            return draw(st.binary(max_size=30))
    names = draw(st.lists(st.sampled_from(sorted(settings)), max_size=4, unique=True))
    data = {name: draw(settings[name]) for name in names}
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        data[draw(st.sampled_from([*names, draw(texts)]))] = draw(values)
    text = _as_yaml(data)
    usual = st.just(text.encode())
    return draw(st.one_of(*[usual] * 6, st.just((text + text).encode()), broken(text.encode())))


def _as_yaml(data: Any) -> str:
    try:
        return yaml.safe_dump(data, allow_unicode=True)
    except (yaml.YAMLError, UnicodeError):
        return json.dumps(data)


def words(options: Sequence[str], of: dict[str, SearchStrategy[Any]]) -> SearchStrategy[list[str]]:
    """Options of a command line with values, right ones and others."""
    anything = st.one_of(values.map(_as_word), texts)

    @st.composite
    def one(draw: DrawFn) -> list[str]:
        name = draw(st.one_of(st.sampled_from(sorted(of) or options), st.sampled_from(options)))
        right = draw(st.integers(0, 2)) > 0
        value = draw(of[name].map(_as_word) if name in of and right else anything)
        match draw(st.integers(0, 19)):
            case 0:
                return [name]
            case 1:
                return [draw(texts)]
            case 2:
                return [name[:-1], value]
            case 3 | 4:
                return [f"{name}={value}"]
        return [name, value]

    return st.lists(one(), max_size=3).map(lambda given: [word for pair in given for word in pair])


def _as_word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
