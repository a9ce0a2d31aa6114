"""Which trial is meant: names, numbers, limits, and the knee of the front."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from helpers import findings, result_of, searched, trial, trials_of, units_of
from hypothesis import given
from hypothesis import strategies as st

from se_nas.analysis.findings import Findings
from se_nas.analysis.selection import budget_steps, knee_row, limited_costs, select
from se_nas.analysis.summary import summarize
from se_nas.core.errors import RunError
from se_nas.core.placement import Placement
from se_nas.core.trial import CostValue, Objective
from se_nas.space.space import Space
from se_nas.space.spec import read_space

GFLOPS = Objective(metric="val_accuracy", direction="maximize", cost="gflops")


@pytest.fixture(scope="module")
def found() -> Findings:
    """A search that trained a whole space of eight placements."""
    space = Space(read_space({"reductions": ["none", 16]}), units_of("resnet8"))
    roles = {space.baseline.key: "baseline", space.reference.key: "reference"}
    trials = [replace(t, role=roles.get(t.placement.key, "")) for t in searched(space, 8)]
    return findings(trials, GFLOPS, space)


def chosen(found: Findings, how: str) -> int:
    return select(found, how).number


class TestNames:
    def test_reference_points(self, found: Findings) -> None:
        roles = {t.number: t.role for t in found.trials}
        assert roles[chosen(found, "baseline")] == "baseline"
        assert roles[chosen(found, "reference")] == "reference"

    def test_best_has_the_best_mean(self, found: Findings) -> None:
        table = found.complete
        assert found.best is not None
        assert found.best["trial"] == table.loc[table["mean"].idxmax(), "trial"]

    def test_the_luckiest_single_run(self, found: Findings) -> None:
        table = found.complete
        assert chosen(found, "observed-best") == table.loc[table["metric"].idxmax(), "trial"]

    def test_recommended_is_what_the_summary_recommends(self, found: Findings) -> None:
        recommended = summarize(found).recommended
        assert recommended is not None
        assert chosen(found, "recommended") == chosen(found, "best") == recommended.trial

    @pytest.mark.parametrize("cost", ["params", "gflops"])
    def test_the_best_within_a_limit(self, found: Findings, cost: str) -> None:
        table = found.complete
        for limit in sorted(table[cost]):
            within = table[table[cost] <= limit]
            assert chosen(found, f"max-{cost}={limit!r}") == within.loc[within["mean"].idxmax(), "trial"]

    def test_a_number(self, found: Findings) -> None:
        assert chosen(found, "trial=3") == 3


def with_costs(*rows: dict[str, CostValue], values: tuple[float, ...]) -> Findings:
    """A search without a posterior, whose trials have these values and these costs too."""
    trials = trials_of(*((value, 10 + n, "complete") for n, value in enumerate(values)))
    return findings([replace(t, costs={**t.costs, **more}) for t, more in zip(trials, rows, strict=True)])


def slow(value: float, *interval: float) -> CostValue:
    return CostValue(value=value, unit="ms", kind="measured", interval=interval or None)  # type: ignore[arg-type]


class TestLimits:
    def test_of_a_measured_cost_is_one_of_the_upper_end_of_its_interval(self) -> None:
        """The faster one is known badly: it may be slower than the limit."""
        latency = [{"latency": v} for v in (slow(1.0, 0.5, 1.5), slow(3.0, 1.0, 5.0), slow(4.0, 3.9, 4.1), slow(2.5))]
        found = with_costs(*latency, values=(0.5, 0.9, 0.7, 0.6))
        for limit, number in ((1.5, 0), (2.4, 0), (2.5, 3), (4.09, 3), (4.1, 2), (4.9, 2), (5.0, 1)):
            assert chosen(found, f"max-latency={limit}") == number, limit
        with pytest.raises(RunError, match="no trained network has latency of at most 1") as caught:
            chosen(found, "max-latency=1.4")
        assert "the smallest has 1.5" in str(caught.value)

    def test_a_cost_of_the_user_is_called_with_dashes(self) -> None:
        costs = [{"edge_time": slow(v, v, v + 1)} for v in (1, 2, 3)]
        found = with_costs(*costs, values=(0.5, 0.6, 0.7))
        assert [chosen(found, f"max-edge-time={limit}") for limit in (2, 3.5, 4)] == [0, 1, 2]

    def test_what_is_no_cost_can_be_no_limit(self, found: Findings) -> None:
        for name in ("metric", "mean", "seconds", "trial"):
            with pytest.raises(RunError, match=f"no trial of the run has the cost '{name}'") as caught:
                chosen(found, f"max-{name}=5")
            assert "allowed: gflops, macs, params, activations" in str(caught.value)

    def test_of_a_loss_is_the_smallest(self) -> None:
        found = with_costs({}, {}, {}, values=(0.5, 0.9, 0.3))
        less = replace(found, objective=replace(found.objective, direction="minimize"))
        assert (chosen(found, "max-macs=11"), chosen(less, "max-macs=11"), chosen(less, "max-macs=12")) == (1, 0, 2)


class TestErrors:
    @pytest.mark.parametrize(
        ("how", "message", "more"),
        [
            ("recomended", "select is 'recomended'", "did you mean 'recommended'?"),
            ("params=5", "select is 'params=5'", "max-COST=X"),
            ("max-params", "select is 'max-params'", "max-COST=X"),
            ("max-params=5=6", "the limit of params is '5=6'", "a number"),
            ("trial=99", "the run has no trial '99'", "0 to 7"),
            ("trial=x", "the run has no trial 'x'", "0 to 7"),
            ("given", r"no finished training of the network as given \(given\)", "let the search go on"),
            ("max-params=few", "the limit of params is 'few'", "a number"),
            ("max-prams=5", "no trial of the run has the cost 'prams'", "did you mean 'params'?"),
            ("max-latency=5", "no trial of the run has the cost 'latency'", "params"),
            ("max-params=5", "no trained network has params of at most 5", "the smallest has 2000"),
        ],
    )
    def test_what_there_is_not(self, found: Findings, how: str, message: str, more: str) -> None:
        with pytest.raises(RunError, match=message) as caught:
            chosen(found, how)
        assert more in str(caught.value)

    @pytest.mark.parametrize("state", ["running", "failed", "stopped", "rejected"])
    def test_unfinished(self, found: Findings, state: str) -> None:
        unfinished = trial(Placement(choices={}), 5, **result_of(state, reason="why"))
        with pytest.raises(RunError, match=f"trial 5 is not finished: its state is {state}: why") as caught:
            select(replace(found, trials=[unfinished]), "trial=5")
        assert "se-nas train" in str(caught.value)

    def test_unfinished_without_a_reason(self, found: Findings) -> None:
        running = trial(Placement(choices={}), 5, **result_of("running"))
        with pytest.raises(RunError) as caught:
            select(replace(found, trials=[running]), "trial=5")
        assert str(caught.value).splitlines()[0] == "trial 5 is not finished: its state is running"

    def test_a_number_where_there_is_no_trial(self, found: Findings) -> None:
        with pytest.raises(RunError) as caught:
            select(replace(found, trials=[]), "trial=0")
        assert str(caught.value) == "the run has no trial '0'\n  allowed: nothing"

    def test_nothing_is_finished(self, found: Findings) -> None:
        for how in ("recommended", "observed-best", "knee"):
            with pytest.raises(RunError, match="no finished training yet"):
                select(replace(found, trials=[]), how)


def front(points: list[tuple[float, float]], *, believed: bool = True) -> pd.DataFrame:
    """A front of (cost, quality), in `mean` or in `metric`."""
    table = pd.DataFrame(points, columns=["gflops", "mean" if believed else "metric"])
    table = table.sort_values("gflops", ignore_index=True)
    table["trial"] = range(len(table))
    return table.assign(posterior_front=believed, observed_front=True)


def heights(points: np.ndarray) -> np.ndarray:
    """Distances (n,) of points (n, 2) above the line from the first to the last, by the cross product, scaled."""
    scaled = (points - points[0]) / (points[-1] - points[0])
    way = scaled[-1] - scaled[0]
    return np.array([way[0] * p[1] - way[1] * p[0] for p in scaled - scaled[0]]) / np.hypot(*way)


class TestKnee:
    def test_a_front_with_an_obvious_one(self) -> None:
        points = [(0.0, 0.0), (1.0, 9.0), (5.0, 9.5), (10.0, 10.0)]
        for believed in (True, False):
            row = knee_row(front(points, believed=believed), GFLOPS)
            assert row is not None
            assert row["trial"] == 1

    def test_a_metric_to_minimize(self) -> None:
        row = knee_row(front([(0.0, 10.0), (1.0, 1.0), (10.0, 0.0)]),
                       Objective(metric="val_loss", direction="minimize", cost="gflops"))  # fmt: skip
        assert row is not None
        assert row["trial"] == 1

    def test_is_of_the_front_that_is_believed_and_else_of_the_observed_one(self) -> None:
        """By what the model says, not by single runs: the two fronts have other members and other qualities."""
        table = pd.DataFrame({
            "trial": range(5), "gflops": [0.0, 1.0, 2.0, 3.0, 4.0], "mean": [0.0, 1.0, 9.0, 9.5, 10.0],
            "metric": [0.0, 9.0, 2.0, 9.5, 10.0], "posterior_front": [True, False, True, True, True],
            "observed_front": [True, True, False, True, True],
        })  # fmt: skip
        rows = [knee_row(t, GFLOPS) for t in (table, table.assign(posterior_front=False))]
        assert [None if row is None else row["trial"] for row in rows] == [2, 1]
        assert knee_row(table.iloc[:0], GFLOPS) is None

    def test_of_networks_that_cost_the_same_is_the_best(self) -> None:
        row = knee_row(front([(1.0, 0.1), (1.0, 0.7), (1.0, 0.4)]), GFLOPS)
        assert row is not None
        assert row["mean"] == 0.7
        with pytest.raises(RunError, match="the front has no knee"):
            knee_row(front([(1.0, 0.5), (2.0, 0.5), (3.0, 0.5)]), GFLOPS)

    @given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)), min_size=3, max_size=12))
    def test_farthest_from_the_line(self, steps: list[tuple[float, float]]) -> None:
        points = np.cumsum(steps, axis=0)
        above = heights(points)
        if above.max() > 1e-6:
            row = knee_row(front([tuple(p) for p in points]), GFLOPS)
            assert row is not None
            assert above[row["trial"]] == pytest.approx(above.max())

    @pytest.mark.parametrize(
        ("points", "message"),
        [
            ([(0.0, 0.0), (1.0, 1.0)], "the front has 2 networks, and a knee needs three"),
            ([(0.0, 0.0), (1.0, 0.1), (2.0, 1.0)], "the front has no knee"),
        ],
    )
    def test_none(self, points: list[tuple[float, float]], message: str) -> None:
        with pytest.raises(RunError, match=message) as caught:
            knee_row(front(points), GFLOPS)
        assert "max-COST=X" in str(caught.value)

    def test_of_a_run(self, found: Findings) -> None:
        table = found.front
        members = table[table["posterior_front"]]
        above = heights(members[["gflops", "mean"]].to_numpy(float)) if len(members) > 2 else np.zeros(1)
        if above.max() > 1e-9:
            assert chosen(found, "knee") == members["trial"].iloc[int(above.argmax())]
        else:
            with pytest.raises(RunError, match="knee"):
                chosen(found, "knee")


class TestBudgets:
    """What the slider of the report names is what an export with that limit takes."""

    def check(self, found: Findings) -> None:
        for cost in limited_costs(found):
            steps, highest = budget_steps(found, cost)
            limits = [limit for limit, _ in steps]
            assert limits == sorted(set(limits))
            for (limit, number), (end, _) in pairwise([*steps, (highest, -1)]):
                for within in (limit, (limit + end) / 2, np.nextafter(end, -np.inf)):
                    if limit <= within < end:
                        assert chosen(found, f"max-{cost}={float(within)!r}") == number
            assert chosen(found, f"max-{cost}={highest!r}") == steps[-1][1]

    def test_of_every_cost_and_limit(self, found: Findings) -> None:
        self.check(found)
        assert any(len(budget_steps(found, cost)[0]) > 1 for cost in limited_costs(found))

    def test_of_measured_costs_and_losses(self) -> None:
        latency = [{"latency": v} for v in (slow(1.0, 0.5, 1.5), slow(3.0, 1.0, 5.0), slow(4.0, 3.9, 4.1), slow(2.5))]
        found = with_costs(*latency, values=(0.5, 0.9, 0.7, 0.6))
        self.check(found)
        assert budget_steps(found, "latency") == ([(1.5, 0), (2.5, 3), (4.1, 2), (5.0, 1)], 5.0)
        self.check(replace(found, objective=replace(found.objective, direction="minimize")))

    def test_a_cost_that_only_some_have(self) -> None:
        found = with_costs({}, {"latency": slow(3.0, 2.0, 4.0)}, values=(0.5, 0.6))
        assert budget_steps(found, "latency") == ([(4.0, 1)], 4.0)

    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
    def test_of_any_trials(self, rows: list[tuple[int, int]]) -> None:
        self.check(findings(trials_of(*((value / 10, 10 + macs, "complete") for value, macs in rows))))
