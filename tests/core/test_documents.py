"""YAML and JSON within bounds: what is refused, in one line and at once, and what is read as it always was."""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from se_nas.core.config import SearchConfig
from se_nas.core.documents import (
    DEEPEST,
    LARGEST,
    BeyondError,
    UnreadableError,
    check_yaml,
    from_json_text,
    from_yaml,
    text_of,
)
from se_nas.core.errors import ConfigError, RunError, SeNasError, SpaceError
from se_nas.core.files import user_path
from se_nas.core.overrides import configured, read_config
from se_nas.core.placement import Unit
from se_nas.core.serialization import from_json
from se_nas.engine.run_folder import RunFolder
from se_nas.space.space import Space
from se_nas.space.spec import read_space

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{after}: &{after} [{','.join([f'*{before}'] * 10)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
"""Ten of ten of ten ...: 10^9 values in 500 characters."""

TOO_MUCH = {
    "aliases of aliases": BOMB,
    "an alias within itself": "a: &a [*a]",
    "a mapping within itself": "a: &a {b: *a}",
    "lists in lists": "[" * 100_000,
    "mappings in mappings": "{a: " * 100_000,
    "blocks in blocks": "- " * 100_000,
    "many values": "[" + "1," * 400_000 + "]",
    "many characters": "a" * (LARGEST + 1),
    "a key twice": "lr: 1\nlr: 2",
    "a key twice, inside": "train: {lr: 1, lr: 2}",
}
WRONG = {
    "a thirteenth month": "a: 2001-13-01",
    "no time": "!!timestamp x",
    "no number": "!!float x",
    "5,000 digits": "9" * 5000,
    "digits of base 60": "1:" * 20_000 + "1",
    "code": "!!python/object/apply:os.system ['true']",
    "a list as a key": "? [a]\n: 1",
    "an unknown alias": "*a",
    "NUL": "a: \x00",
    "half a character": "\udcff",
    "two documents": "a\n---\nb",
}

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
    | st.text("ab: -{}[]é", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
)  # fmt: skip


class TestYaml:
    @pytest.mark.parametrize("text", TOO_MUCH.values(), ids=TOO_MUCH)
    def test_what_is_beyond_the_bounds_is_refused_at_once(self, text: str) -> None:
        memory, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        with pytest.raises(BeyondError) as caught:
            from_yaml(text)
        assert time.process_time() - started < 20
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 2**20  # KiB
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 200

    @pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
    def test_what_cannot_be_is_refused_in_one_line(self, text: str) -> None:
        with pytest.raises(UnreadableError) as caught:
            from_yaml(text)
        assert "\n" not in str(caught.value)

    @given(plain)
    def test_everything_else_is_read_as_before(self, data: Any) -> None:
        text = yaml.safe_dump(data, allow_unicode=True)
        assert from_yaml(text) == yaml.safe_load(text)

    def test_few_aliases_and_merges_are_read(self) -> None:
        text = "base: &b {x: 1}\ninner: {deep: &d {<<: *b, x: 2}}\nlast: {<<: *d, y: 4}\nlist: [*b, *b]"
        assert from_yaml(text) == yaml.safe_load(text)
        assert from_yaml(text)["last"] == {"x": 2, "y": 4}

    def test_nesting_is_counted_to_the_level(self) -> None:
        assert from_yaml("[" * DEEPEST + "]" * DEEPEST) is not None
        with pytest.raises(BeyondError, match=f"nested more than {DEEPEST} deep"):
            check_yaml("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1))


class TestJson:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("[" * 100_000, "nested more than 50 deep"),
            ("[" * 60 + "]" * 60, "nested more than 50 deep"),
            ('{"a": ' * 60 + "1" + "}" * 60, "nested more than 50 deep"),
            ('{"stage1": 4, "stage1": 8}', "'stage1' is there twice"),
            ("NaN", "NaN is not a number"),
            ("[1e400, Infinity]", "Infinity is not a number"),
            (str(2**63), "a whole number beyond 64 bits"),
            ('"\\ud800"', "half a character"),
            ('{"\\ud800": 1}', "half a character"),
            ("{", "not valid JSON"),
        ],
    )
    def test_what_is_refused(self, text: str, words: str) -> None:
        with pytest.raises(UnreadableError, match=words):
            from_json_text(text)
        with pytest.raises(RunError, match=words):
            from_json(text.encode(), dict[str, Any])

    @given(plain)
    def test_everything_else_is_read_as_before(self, data: Any) -> None:
        text = json.dumps(data)
        assert from_json_text(text) == json.loads(text)


class TestFiles:
    def test_devices_pipes_and_large_files_are_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "large").write_bytes(b"#" * (LARGEST + 1))
        (tmp_path / "latin").write_bytes(b"a: \xe9")
        for name, words in {"/dev/zero": "not a file", "pipe": "not a file", ".": "a folder", "large": "more than",
                            "latin": "not UTF-8"}.items():  # fmt: skip
            with pytest.raises(UnreadableError, match=words):
                text_of(tmp_path / name)

    @pytest.mark.parametrize("text", [*TOO_MUCH.values(), WRONG["a thirteenth month"]], ids=[*TOO_MUCH, "wrong"])
    def test_every_reader_of_yaml_is_bounded(self, tmp_path: Path, text: str) -> None:
        file = tmp_path / "config.yaml"
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            read_config(str(file), SearchConfig)
        assert str(file) in str(caught.value)
        with pytest.raises(SpaceError):
            read_space(str(file))
        with pytest.raises(RunError, match=str(file)):
            RunFolder(tmp_path).named_storage()

    def test_a_placement_file_is_bounded(self, tmp_path: Path, space8: Space, units8: tuple[Unit, ...]) -> None:
        file = tmp_path / "placement.json"
        for text in ("[" * 100_000, '{"stage1": 4, "stage1": 8}', json.dumps(str(file))):
            file.write_text(text)
            with pytest.raises(SpaceError, match="placement"):
                space8.parse(str(file))

    @pytest.mark.parametrize(
        ("name", "words"),
        [("~nouser/x", "a user who is not known"), ("a\0b", "the character NUL"), ("x" * 300, "too long"),
         ("x/" * 3000, "too long"), ("\ud800", "cannot be the name of a file")],
    )  # fmt: skip
    def test_names_that_no_file_can_have(self, name: str, words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            user_path(name)
        with pytest.raises(ConfigError, match=words):
            RunFolder(Path(name))

    def test_names_of_files_that_are_not_there(self, tmp_path: Path) -> None:
        assert user_path(tmp_path / "ä?{}%") == tmp_path / "ä?{}%"
        assert user_path("~/x") == Path.home() / "x"


class TestPython:
    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"out": "\udcff"}, r"'\\\\udcff' is not UTF-8"),
            ({"data": {"target": "digits", "args": {"x": ["\udcff"]}}}, "is not UTF-8"),
            ({"data": {"target": "digits", "args": {"x": 2**70}}}, "args is"),
            ({"lr": float("inf")}, "lr is inf"),
            ({"max_own": {"x": float("nan")}}, "max_own is"),
            ({"seed": 2**32}, "seed is 4294967296"),
            ({"num_classes": 10**12}, "num_classes is 1000000000000"),
            ({"workers": 10**9}, "workers is 1000000000"),
            ({"cost": "gflops,gflops"}, "gflops twice"),
            ({"input_shape": "3,100000,100000"}, "input_shape is"),
            ({"backbone": None}, "backbone is None"),
            ({"max_time": "9" * 400}, "max_time is"),
        ],
    )
    def test_what_no_search_can_be_made_of(self, settings: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            configured(None, settings)


@given(
    st.text("a b\n", max_size=4000), st.lists(st.text(max_size=300), max_size=60), st.text(max_size=500),
    st.integers(0, 3),
)  # fmt: skip
def test_a_message_is_never_longer_than_a_screen(what: str, allowed: list[str], hint: str, many: int) -> None:
    error = SeNasError("x" + what * 10**many, allowed=allowed, where=hint, hint=what)
    text = f"{'E' * 12}: {error}"
    assert sum(max(1, -(-len(line) // 80)) for line in text.splitlines()) <= 24


def test_a_short_message_is_whole() -> None:
    error = SeNasError("a\nb", allowed=["x" * 400], where="y", hint="z" * 300)
    assert str(error) == f"a\nb\n  in y\n  allowed: {'x' * 400}\n  hint: {'z' * 300}"
