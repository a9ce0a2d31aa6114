"""The contract of the records: JSON and back, golden files of schema version 1, and what a key knows."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import json
import math
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from se_nas.core.config import Limits, SearchConfig
from se_nas.core.errors import RunError, SpaceError
from se_nas.core.placement import (
    GATES,
    IDENTITY_GATES,
    INITS,
    KEEP,
    NONE,
    POSITIONS,
    ROUNDINGS,
    SQUEEZES,
    Choice,
    Placement,
    Site,
    Unit,
    squeeze_channels,
)
from se_nas.core.serialization import SCHEMA_VERSION, checksum, from_json, from_plain, random_stream, to_json, to_plain
from se_nas.core.trial import CostValue, Epoch, Metric, Recipe, Request, Result, RunIdentity, Target, Trial
from se_nas.data.base import DataInfo
from se_nas.exports.bundle import Exported


def _make() -> ModuleType:
    file = Path(__file__).parents[1] / "golden" / "make.py"
    spec = importlib.util.spec_from_file_location("golden_make", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GOLDEN = _make()

# Any value of every field. Choices have rules of their own; arguments of targets are whatever JSON holds.
_finite = st.floats(allow_nan=False, allow_infinity=False)
_whole = st.integers(-(2**53), 2**53)
_json = st.recursive(
    st.none() | st.booleans() | _whole | _finite | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_settings = {
    "position": st.sampled_from(POSITIONS),
    "gate": st.sampled_from(GATES),
    "squeeze": st.sampled_from(SQUEEZES),
    "rounding": st.sampled_from(ROUNDINGS),
    "bias": st.just(value=True),
    "init": st.sampled_from(INITS),
}
_se = st.builds(
    Choice,
    kind=st.just("se"),
    reduction=st.none() | st.floats(0.1, 64),
    squeeze_channels=st.integers(1, 4096),
    gate_scale=_finite,
    gate_offset=_finite,
    **_settings,
)
_choices = _se | st.sampled_from([NONE, KEEP])


def records(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Any record of a kind, every field drawn."""
    return st.builds(kind, **{field.name: ... for field in dataclasses.fields(kind)})


st.register_type_strategy(Choice, _choices)
st.register_type_strategy(float, _finite)
st.register_type_strategy(int, _whole)
st.register_type_strategy(
    Target, st.builds(Target, target=st.text(), args=st.dictionaries(st.text(), _json, max_size=3))
)
for _kind in (Site, Unit, Placement, Recipe, RunIdentity, Metric, CostValue, Epoch):
    st.register_type_strategy(_kind, records(_kind))

KINDS = (
    Site, Unit, Choice, Placement, Target, Recipe, RunIdentity, Metric, CostValue, Epoch, Request, Result, Trial,
    DataInfo, Exported, Limits,
)  # fmt: skip


class TestRoundTrip:
    @pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
    @given(data=st.data())
    def test_json_and_back(self, kind: type[Any], data: st.DataObject) -> None:
        # `schema` is not free: it is what this version writes.
        record = data.draw(st.from_type(kind) if kind in (Choice, Target) else records(kind))
        if hasattr(record, "schema"):
            record = dataclasses.replace(record, schema=SCHEMA_VERSION)
        assert from_json(to_json(record), kind) == record
        assert from_json(to_json(record, indent=1), kind) == record
        assert from_plain(to_plain(record), kind) == record
        assert from_plain(json.loads(json.dumps(to_plain(record))), kind) == record

    @pytest.mark.parametrize("word", ["null", "true", "1", "1e3", "", "nan"])
    def test_words_that_look_like_other_types_stay_words(self, word: str) -> None:
        record = dataclasses.replace(GOLDEN.IDENTITY, start_weights=word, data=word)
        assert from_json(to_json(record), RunIdentity) == record
        target = Target(target=word, args={word: word})
        assert from_json(to_json(target), Target) == target

    def test_configuration(self) -> None:
        config = SearchConfig(max=Limits(params=1e5), max_time="10m", workers=2, out="x")
        assert from_json(to_json(config), SearchConfig) == config


class TestGolden:
    @pytest.mark.parametrize("name", GOLDEN.RECORDS)
    def test_old_files_are_read(self, name: str) -> None:
        record = GOLDEN.RECORDS[name]
        assert from_json(GOLDEN.golden_file(name).read_bytes(), type(record)) == record

    @pytest.mark.parametrize("name", GOLDEN.RECORDS)
    def test_nothing_that_was_written_is_written_differently(self, name: str) -> None:
        old = json.loads(GOLDEN.golden_file(name).read_text())
        new = json.loads(to_json(GOLDEN.RECORDS[name]))
        _contains(new, old, name)

    @pytest.mark.parametrize("name", GOLDEN.RECORDS)
    def test_every_field_is_in_the_file(self, name: str) -> None:
        """Run tests/golden/make.py when a record gets a field."""
        elsewhere = {"own"} if name == "choice" else set()  # in own_choice: SE is no block of the user's own
        assert set(json.loads(GOLDEN.golden_file(name).read_text())) | elsewhere == {
            field.name for field in dataclasses.fields(GOLDEN.RECORDS[name])
        }

    def test_a_field_of_an_earlier_version_is_passed_over(self) -> None:
        old = {**to_plain(GOLDEN.REQUEST), "trainings_left": 5.0}
        assert from_plain(old, Request) == GOLDEN.REQUEST

    def test_keys_never_change(self) -> None:
        old = json.loads(GOLDEN.golden_file("keys").read_text())
        assert {name: placement.key for name, placement in GOLDEN.KEYED.items()} == old

    @pytest.mark.parametrize("name", GOLDEN.KEYED)
    def test_a_key_that_was_asked_for_is_no_part_of_the_record(self, name: str) -> None:
        placement = GOLDEN.KEYED[name]
        fresh = dataclasses.replace(placement, label="fresh")
        before = to_json(fresh), dataclasses.asdict(fresh)
        assert fresh.key is fresh.key, "computed once"
        assert (to_json(fresh), dataclasses.asdict(fresh)) == before
        assert pickle.loads(pickle.dumps(fresh)) == copy.deepcopy(fresh) == fresh

    @pytest.mark.parametrize("name", ["trial", "exported"])
    def test_stored_records_carry_the_schema(self, name: str) -> None:
        assert json.loads(GOLDEN.golden_file(name).read_text())["schema"] == 1 == SCHEMA_VERSION


def _contains(new: Any, old: Any, path: str) -> None:
    if isinstance(old, dict):
        assert isinstance(new, dict), path
        for name, value in old.items():
            assert name in new, f"{path}.{name} is no longer written"
            _contains(new[name], value, f"{path}.{name}")
    elif isinstance(old, list):
        assert len(new) == len(old), path
        for index, value in enumerate(old):
            _contains(new[index], value, f"{path}[{index}]")
    else:
        assert new == old, path
        assert type(new) is type(old), path


class TestReading:
    @pytest.mark.parametrize("init", ["default", None])
    def test_a_block_of_before_has_the_start_and_the_key_that_it_had(self, init: str | None) -> None:
        """Plain was called default; a record without it was of nothing else."""
        block = {"kind": "se", "reduction": 16.0, "squeeze_channels": 4} | ({} if init is None else {"init": init})
        read = from_plain({"choices": {"a": block}}, Placement)
        assert read == Placement(choices={"a": Choice.se(64, 16, init="plain")})
        assert read.key == json.loads(GOLDEN.golden_file("keys").read_text())["paper"] == "7a3e5cd281c19287"
        assert to_plain(read)["choices"]["a"]["init"] == "plain"

    def test_unknown_fields_of_a_newer_writer_are_ignored(self) -> None:
        plain = to_plain(GOLDEN.TRIAL)
        plain["mood"] = "good"
        plain["placement"]["choices"]["layer1.0"]["colour"] = "red"
        plain["identity"]["recipe"]["teacher"] = {"target": "x"}
        assert from_plain(plain, Trial) == GOLDEN.TRIAL

    @pytest.mark.parametrize(
        ("kind", "needed"),
        [
            (
                Trial,
                {"number": 0, "identity": to_plain(GOLDEN.IDENTITY), "placement": {"choices": {}}, "state": "failed"},
            ),
            (Result, {"trial": 0, "state": "complete"}),
            (Choice, {}),
            (Recipe, {}),
        ],
        ids=["Trial", "Result", "Choice", "Recipe"],
    )
    def test_missing_fields_have_their_defaults(self, kind: type[Any], needed: dict[str, Any]) -> None:
        record = from_plain(needed, kind)
        for field in dataclasses.fields(kind):
            if field.name not in needed:
                default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
                assert getattr(record, field.name) == default

    @pytest.mark.parametrize("name", ["trial", "exported"])
    def test_a_newer_schema_is_refused(self, name: str) -> None:
        plain = {**to_plain(GOLDEN.RECORDS[name]), "schema": SCHEMA_VERSION + 1}
        with pytest.raises(RunError) as caught:
            from_plain(plain, type(GOLDEN.RECORDS[name]), where="best/placement.json")
        assert str(caught.value) == (
            "schema version 2 is newer than this se-nas (1)\n  in best/placement.json\n  hint: update se-nas"
        )

    def test_a_wrong_field_is_named(self) -> None:
        plain = to_plain(GOLDEN.TRIAL)
        plain["state"] = "happy"
        with pytest.raises(RunError, match=r"Trial: Invalid enum value 'happy' - at `\$\.state`"):
            from_plain(plain, Trial)

    def test_no_json_is_named(self) -> None:
        with pytest.raises(RunError, match="not valid JSON") as caught:
            from_json(b"{", Trial, where="results/4-1.json")
        assert "in results/4-1.json" in str(caught.value)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_records_are_frozen_and_keyword_only(kind: type[Any]) -> None:
    parameters = kind.__dataclass_params__
    assert parameters.frozen
    assert all(field.kw_only for field in dataclasses.fields(kind))


class TestChoice:
    @pytest.mark.parametrize(
        ("field", "allowed"),
        [("position", POSITIONS), ("gate", GATES), ("squeeze", SQUEEZES), ("rounding", ROUNDINGS), ("init", INITS)],
    )
    def test_a_wrong_setting_is_refused_with_what_is_allowed(self, field: str, allowed: tuple[str, ...]) -> None:
        with pytest.raises(SpaceError) as caught:
            Choice(**{field: "odd"})
        assert str(caught.value) == f"{field} is 'odd'\n  allowed: {', '.join(allowed)}"

    @pytest.mark.parametrize("width", [None, 0, -1])
    def test_a_hidden_width_below_one_is_refused(self, width: int | None) -> None:
        with pytest.raises(SpaceError, match=f"would have a hidden width of {width}") as caught:
            Choice(kind="se", reduction=128, squeeze_channels=width)
        assert "smaller reduction" in str(caught.value)

    def test_a_reduction_above_the_channels_is_refused(self) -> None:
        with pytest.raises(SpaceError) as caught:
            Choice.se(8, 16)
        assert str(caught.value) == (
            "reduction 16 leaves a hidden width of 0 at 8 channels\n"
            "  hint: choose a reduction of at most 8, or the rounding rule multiple_of_8"
        )
        assert Choice.se(8, 16, rounding="multiple_of_8").squeeze_channels == 8

    def test_identity_with_relu_needs_a_bias(self) -> None:
        with pytest.raises(SpaceError, match="needs bias: true"):
            Choice.se(64, 16, init="identity", gate="relu")
        assert Choice.se(64, 16, init="identity", gate="relu", bias=True).gate_offset == 0.0

    @pytest.mark.parametrize("gate", GATES)
    def test_identity_takes_the_gate_that_starts_at_one(self, gate: str) -> None:
        choice = Choice.se(64, 16, init="identity", gate=gate, bias=True)
        assert (choice.gate_scale, choice.gate_offset) == IDENTITY_GATES[gate]

    @given(channels=st.integers(1, 4096), reduction=st.integers(1, 64))
    def test_floor_is_the_rule_of_the_paper(self, channels: int, reduction: int) -> None:
        assert squeeze_channels(channels, reduction) == channels // reduction

    @given(channels=st.integers(1, 4096), reduction=st.sampled_from([1, 2, 4, 8, 16, 32]))
    @example(channels=64, reduction=16)
    def test_multiple_of_8_is_timm_s(self, channels: int, reduction: int) -> None:
        # timm's make_divisible(channels / reduction, divisor=8, round_limit=0)
        wanted = channels * (1 / reduction)
        expected = max(8, int(wanted + 8 / 2) // 8 * 8)
        assert squeeze_channels(channels, reduction, "multiple_of_8") == expected
        assert expected % 8 == 0

    def test_labels(self) -> None:
        assert [c.label for c in (NONE, KEEP, Choice.se(64, 16), Choice.se(64, 2.5))] == ["none", "keep", "16", "2.5"]
        assert Choice(kind="se", squeeze_channels=6).label == "6ch"


class TestKey:
    @given(choice=_se, label=st.text(), reduction=st.floats(0.1, 100), rounding=st.sampled_from(ROUNDINGS))
    def test_independent_of_how_the_width_was_asked_for(
        self, choice: Choice, label: str, reduction: float, rounding: str
    ) -> None:
        same = dataclasses.replace(choice, reduction=reduction, rounding=rounding)
        one = Placement(choices={"a": choice})
        assert one.key == Placement(choices={"a": same}, label=label).key

    @given(st.dictionaries(st.text(max_size=3), _choices, max_size=4), st.randoms())
    def test_independent_of_order_and_of_units_without_se(self, choices: dict[str, Choice], random: Any) -> None:
        items = list(choices.items())
        random.shuffle(items)
        fewer = {name: choice for name, choice in items if choice.kind != "none"}
        assert Placement(choices=choices).key == Placement(choices=fewer).key
        assert Placement(choices={**fewer, "another": NONE}).key == Placement(choices=fewer).key

    def test_written_defaults_are_the_same_as_no_words(self) -> None:
        short = Choice(kind="se", squeeze_channels=4)
        full = Choice(
            kind="se", squeeze_channels=4, reduction=16.0, position="standard", gate="sigmoid", gate_scale=1.0,
            gate_offset=0.0, squeeze="avg", rounding="floor", bias=False, init="plain",
        )  # fmt: skip
        assert Placement(choices={"a": short}).key == Placement(choices={"a": full}).key

    @given(
        choice=_se,
        change=st.sampled_from(
            [
                {"position": "post"}, {"position": "pre"}, {"gate": "tanh"}, {"gate": "relu"}, {"squeeze": "max"},
                {"bias": False}, {"init": "identity"}, {"init": "plain"}, {"squeeze_channels": 5000},
                {"gate_scale": 3.25}, {"gate_offset": 3.25}, {"kind": "none"}, {"kind": "keep"},
            ]
        ),
    )  # fmt: skip
    def test_knows_everything_that_the_network_is(self, choice: Choice, change: dict[str, Any]) -> None:
        try:
            other = dataclasses.replace(choice, **change)
        except SpaceError:
            return
        different = any(getattr(choice, name) != value for name, value in change.items())
        one, two = Placement(choices={"a": choice}).key, Placement(choices={"a": other}).key
        assert (one != two) == different

    def test_knows_the_unit(self) -> None:
        choice = Choice.se(64, 16)
        assert Placement(choices={"a": choice}).key != Placement(choices={"b": choice}).key
        assert Placement(choices={"a": KEEP}).key != Placement(choices={"a": NONE}).key

    @given(_choices)
    def test_is_sixteen_hexadecimal_digits_and_survives_json(self, choice: Choice) -> None:
        placement = Placement(choices={"a": choice})
        assert len(placement.key) == 16
        assert int(placement.key, 16) >= 0
        assert from_json(to_json(placement), Placement).key == placement.key

    def test_two_reductions_of_one_width_are_one_network(self) -> None:
        """With timm's rule 64 channels get 8 hidden ones at r = 16 and at r = 8."""
        sixteen, eight = (Choice.se(64, r, rounding="multiple_of_8") for r in (16, 8))
        assert Placement(choices={"a": sixteen}).key == Placement(choices={"a": eight}).key


class TestIdentity:
    def test_a_duplicate_is_the_same_key_in_the_same_phase(self) -> None:
        one = GOLDEN.IDENTITY
        assert dataclasses.replace(one, seed=99, replicate=5).duplicate_of == one.duplicate_of
        assert dataclasses.replace(one, phase="search").duplicate_of != one.duplicate_of
        assert dataclasses.replace(one, key="0" * 16).duplicate_of != one.duplicate_of


class TestStreams:
    @given(st.integers(0, 2**31), st.text(max_size=5), st.text(max_size=5))
    def test_streams_are_separate(self, seed: int, one: str, two: str) -> None:
        assert (random_stream(seed, one) == random_stream(seed, two)) == (one == two)
        assert random_stream(seed, one) != random_stream(seed + 1, one)
        assert random_stream(seed, one, two) != random_stream(seed, one + two)

    def test_range(self) -> None:
        values = [random_stream(seed, "x") for seed in range(500)]
        assert all(0 <= value < 2**63 for value in values)
        assert math.isclose(sum(values) / len(values), 2**62, rel_tol=0.1)

    def test_never_change(self) -> None:
        assert random_stream(0, "backbone") == 7465429650163292309
        assert random_stream(1, "batches", 3) == 2516522073641591816

    @given(st.dictionaries(st.text(max_size=4), _whole, max_size=4))
    def test_checksum_does_not_know_the_order(self, record: dict[str, int]) -> None:
        assert checksum(record) == checksum(dict(reversed(record.items())))
