"""Rules that need no search beside the trainings of a search: costs, gains, and where they are shown."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import DIGITS, OBJECTIVE, backbone_of, findings, reading_of, result_of, searched, trial, units_of
from rich.console import Console

from se_nas.analysis.findings import Findings
from se_nas.analysis.summary import as_json, summarize
from se_nas.core.placement import Placement
from se_nas.core.trial import Trial
from se_nas.report.front_chart import front_chart
from se_nas.report.metric import Metric
from se_nas.report.rules_table import rules_display, rules_section
from se_nas.samplers.features import Features
from se_nas.samplers.posterior import fit
from se_nas.space.exact_cost import CostModel
from se_nas.space.fixed_rules import fixed_rules
from se_nas.space.levels import LevelSpace, distributions
from se_nas.space.space import Space
from se_nas.space.spec import read_space

MODEL: dict[str, CostModel] = {}


def trained(space: Space, n: int, *, sign: int = 1) -> list[Trial]:
    """`searched`, with the true costs of resnet8."""
    costs = MODEL.setdefault("resnet8", CostModel(backbone_of("resnet8"), space.units, DIGITS))
    return [replace(t, costs=costs(t.placement).values()) for t in searched(space, n, sign=sign)]


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_gains_are_the_posteriors_differences(space8: Space, direction: Any) -> None:
    """With the oracle fitted anew here, in levels that are looked up by hand."""
    sign = 1 if direction == "maximize" else -1
    trials = trained(space8, 20, sign=sign)
    found = findings(trials, replace(OBJECTIVE, direction=direction), space8)
    levels = LevelSpace.of(distributions(space8.parameters), space8.parameters)
    at = {"none": 0, "16": 1}
    codes = np.array([[space8.find(t.placement)[name] for name in levels.names] for t in trials])  # type: ignore[index]
    values = np.array([sign * t.metrics["val_accuracy"].value for t in trials])
    posterior = fit(Features(levels.meanings), codes, values)
    assert [rule.placement for rule in found.rules] == [r.placement.label for r in fixed_rules(space8)]
    assert {rule.trial is None for rule in found.rules} == {True, False}
    for rule in found.rules:
        stages = dict.fromkeys(("stage1", "stage2", "stage3"), rule.placement.removeprefix("all:"))
        if "=" in rule.placement:
            stages = dict(part.split("=") for part in rule.placement.split(","))
        row = np.array([[at[stages[name.partition(".")[0]]] for name in levels.names]])
        against = posterior.differences(row, minus=0 * row)
        chances = against.chances(found.margin)
        assert rule.gain == pytest.approx(sign * posterior.predict(row, minus=0 * row)[0][0])
        assert rule.mean == pytest.approx(sign * posterior.predict(row)[0][0])
        assert (rule.gain_low, rule.gain_high) == pytest.approx(
            sorted(sign * float(end[0]) for end in against.interval())
        )
        assert (rule.p_better, rule.p_same, rule.p_worse) == pytest.approx(
            (chances.better[0], chances.same[0], chances.worse[0])
        )


def test_a_rule_that_was_trained_has_the_numbers_of_its_row(space8: Space) -> None:
    found = findings(trained(space8, 64), OBJECTIVE, space8)
    rows = found.complete.set_index("key")
    assert len(found.rules) == 5
    for rule in found.rules:
        row = rows.loc[rule.key]
        assert rule.trial == row["trial"]
        for name in ("mean", "gain", "gain_low", "gain_high", "p_better", "p_same", "p_worse", "params", "gflops"):
            value = rule.costs[name] if name in rule.costs else getattr(rule, name)
            assert value == pytest.approx(row[name]), name


@pytest.mark.parametrize("name", ["resnet8", "resnet20"])
def test_costs_of_untrained_rules_are_those_of_a_trace(name: str) -> None:
    """The cost model's oracle is a full trace of the network (tests/space/test_cost.py)."""
    space = Space(read_space("stagewise"), units_of(name))
    model = CostModel(backbone_of(name), space.units, DIGITS)
    base = trial(space.baseline, 0, role="baseline", costs=model(space.baseline).values(), **result_of())
    rules = findings([base], OBJECTIVE, space).rules
    placements = [rule.placement for rule in fixed_rules(space)]
    assert [rule.trial for rule in rules] == [None] * 5
    for rule, placement in zip(rules, placements, strict=True):
        assert rule.costs == {n: cost.value for n, cost in model(placement).values().items()}
        assert (rule.gain, rule.p_better) == (None, None), "one training is no posterior"


def test_a_trained_rule_has_the_measured_costs_too(space8: Space) -> None:
    trials = trained(space8, 64)
    latency = {"latency": replace(trials[0].costs["params"], value=1.5)}
    number = next(t.number for t in trials if t.placement.label == "all:16")
    trials[number] = replace(trials[number], costs={**trials[number].costs, **latency})
    known = {rule.placement: rule.costs.get("latency") for rule in findings(trials, OBJECTIVE, space8).rules}
    assert known.pop("all:16") == 1.5
    assert set(known.values()) == {None}


def test_nothing_is_said_without_the_backbone_alone(space8: Space) -> None:
    trials = trained(space8, 20)
    assert findings(trials[1:], OBJECTIVE, space8).rules == ()
    assert findings(trials, OBJECTIVE).rules == ()
    running = [replace(trials[0], state="failed"), *trials[1:]]
    assert findings(running, OBJECTIVE, space8).rules == ()


def shown(found: Findings) -> tuple[str, str]:
    """The section of the page and the table of the terminal, as text."""
    summary = summarize(found, folder="RUN", budget=20, ended="")
    section, display = rules_section(summary), rules_display(summary)
    assert (section is None) == (display is None)
    terminal = io.StringIO()
    if section is None or display is None:
        return "", ""
    Console(file=terminal, width=220).print(display)
    return "\n".join(" | ".join(row) for row in section.tables[0].rows), terminal.getvalue()


def test_page_terminal_and_json_say_the_same(space8: Space) -> None:
    found = findings(trained(space8, 20), OBJECTIVE, space8)
    page, terminal = shown(found)
    rows = json.loads(json.dumps(as_json(summarize(found, folder="RUN", budget=20, ended=""), found)))["rules"]
    assert len(page.splitlines()) == len(rows) == 5
    for line, row, rule in zip(page.splitlines(), rows, found.rules, strict=True):
        assert row["rules"] == list(rule.rules)
        assert row["gain"] == pytest.approx(rule.gain)
        cells = line.split(" | ")
        assert cells[0] == "; ".join(rule.rules)
        assert cells[2] == ("not trained" if rule.trial is None else str(rule.trial))
        added = int(row["costs"]["params"] - found.complete["params"].iloc[0])
        assert cells[6].startswith(f"+{added:,} (+")
        assert all(cell in terminal for cell in cells)
    assert "not trained" in page


def test_few_trainings_show_no_table(space8: Space) -> None:
    found = findings(trained(space8, 3), OBJECTIVE, space8)
    assert len(found.rules) == 5
    assert shown(found) == ("", "")


@pytest.mark.parametrize("cost", ["gflops", "params"])
def test_marks_lie_at_cost_and_mean_of_each_rule(space8: Space, cost: str) -> None:
    found = findings(trained(space8, 20), OBJECTIVE, space8)
    reading = reading_of(found)
    view = front_chart(reading, np.arange(len(found.complete)), reading.costs).views[reading.costs.index(cost)]
    (mark,) = (t for t in view.traces if t["name"] == "rules that need no search")
    zero = float(found.complete[cost].iloc[0])
    assert mark["x"] == pytest.approx([100 * (rule.costs[cost] / zero - 1) for rule in found.rules])
    assert mark["y"] == pytest.approx([Metric(found).factor * rule.mean for rule in found.rules if rule.mean])
    assert ["not trained" in text for text in mark["text"]] == [rule.trial is None for rule in found.rules]


def test_marks_only_where_cost_and_mean_are_known(space8: Space) -> None:
    trials = trained(space8, 20)
    for few in (trials[:3], trials):
        found = findings(few, OBJECTIVE, space8)
        found.__dict__["complete"] = found.complete.assign(latency=1.0)  # of the trained networks alone
        reading = reading_of(found)
        chart = front_chart(reading, np.arange(len(few)), reading.costs)
        view = chart.views[reading.costs.index("latency")]
        assert "rules that need no search" not in [t["name"] for t in view.traces]


def test_names_of_a_users_modules_are_no_markup(space8: Space) -> None:
    found = findings(trained(space8, 20), OBJECTIVE, space8)
    reading = reading_of(found)
    evil = tuple(replace(rule, placement="<img src=x>") for rule in found.rules)
    reading = replace(reading, summary=replace(reading.summary, rules=evil))
    chart = front_chart(reading, np.arange(len(found.complete)), reading.costs)
    (mark,) = (t for t in chart.views[0].traces if t["name"] == "rules that need no search")
    assert all("<img" not in text and "&lt;img" in text for text in mark["text"])


def test_a_backbone_with_se_of_its_own_is_compared_without_it(space8: Space) -> None:
    """The placement without SE is the baseline, whatever the backbone had."""
    kept = tuple(replace(u, existing=f"{u.name}.se") for u in space8.units)
    space = Space(space8.spec, kept)
    base = trial(Placement(choices={}), 0, costs=trained(space8, 1)[0].costs, role="baseline", **result_of())
    rules = findings([base], OBJECTIVE, space).rules
    assert [rule.placement for rule in rules] == [rule.placement.label for rule in fixed_rules(space8)]
