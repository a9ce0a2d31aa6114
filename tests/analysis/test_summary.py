"""What a search says when it ends: counts, the best network, and the provisional verdict in full."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from helpers import OBJECTIVE, REPOSITORY, findings, result_of, searched, trials_of
from test_verdict import network_of

from se_nas.analysis.confirmation import Verdict, read_confirmed
from se_nas.analysis.selection import select
from se_nas.analysis.summary import Network, Summary, as_json, provisional_verdict, summarize
from se_nas.core.config import Limits
from se_nas.core.errors import RunError
from se_nas.core.trial import INTERRUPTED, LOST, Objective
from se_nas.space.space import Space

NO_SE = network_of("none", 0.5, 0.0, role="baseline", trial=0, placement="none", costs={"params": 1000, "macs": 2000})
NETWORK = network_of("16", 0.625, 0.95, trial=1, placement="stage1=16", costs={"params": 1100, "macs": 3000})
CONFIRM = "Only fresh seeds and the sealed test set can decide. Next: se-nas confirm RUN"


def summary_of(*front: Network, direction: Any = "maximize", **more: Any) -> Summary:
    sign = 1.0 if direction == "maximize" else -1.0
    facts: dict[str, Any] = {
        "folder": "RUN", "ended": "", "budget": 9, "trained": 8, "failed": 0, "complete": 7, "unit": "share",
        "front": front, "best": max(front, key=lambda n: sign * n.value, default=None),
        "references": {"baseline": NO_SE}, "margin": 0.003,
        "likeliest": max((n for n in front if n.role != "baseline"), key=lambda n: n.p_better or 0.0, default=None),
        "objective": Objective(metric="val_accuracy", direction=direction, cost="macs"),
    }  # fmt: skip
    return Summary(**{**facts, **more})


def told(*front: Network, **more: Any) -> tuple[Verdict, str]:
    """The provisional verdict, and its first sentence; the second always says what to do next."""
    verdict = provisional_verdict(summary_of(*front, **more))
    first, second = verdict.sentences
    assert (verdict.phase, second.text, second.numbers) == ("search", CONFIRM, {})
    return verdict, first.text


class TestProvisionalWords:
    def test_of_a_network_that_looks_better(self) -> None:
        verdict, text = told(NETWORK)
        assert (verdict.claim, verdict.network) == ("use", "16")
        assert text == (
            "Provisional: SE with r=16 in stage 1 looks better than the plain backbone for 10 % more parameters "
            "and 50 % more MACs. Model estimate from 7 trainings: +12.50 points (90 % interval +2.50 to +22.50); "
            "better 95 %, no relevant difference 5 %, worse 0 %, by a margin of 0.30 points."
        )
        numbers = {"gain": 0.125, "lower": 0.025, "upper": 0.225, "better": 0.95, "same": 0.05, "worse": 0.0}
        assert verdict.sentences[0].numbers == pytest.approx({**numbers, "margin": 0.003})
        by_params = Objective(metric="val_accuracy", direction="maximize", cost="params")
        assert "plain backbone for 10 % more parameters. Model estimate from" in told(NETWORK, objective=by_params)[1]

    def test_of_the_best_where_none_is_recommended(self) -> None:
        verdict, text = told(replace(NETWORK, recommended=False))
        assert (verdict.claim, verdict.network) == ("use", "16")
        assert "looks better" in text

    def test_a_cost_that_no_se_does_not_have_is_no_price(self) -> None:
        for costs in ({"params": 1000}, {"params": 1000, "macs": 0}):
            _, text = told(NETWORK, references={"baseline": replace(NO_SE, costs=costs)})
            assert "plain backbone for 10 % more parameters. Model estimate from" in text

    def test_of_one_that_may_be_better_or_not(self) -> None:
        verdict, text = told(replace(NETWORK, p_better=0.894, p_same=0.09, p_worse=0.016))
        assert (verdict.claim, verdict.network) == ("undecided", "none")
        assert text == (
            "Provisional: no placement is distinguishable from the plain backbone. The most promising, SE with "
            "r=16 in stage 1: +12.50 points (90 % interval +2.50 to +22.50); better 89 %, no relevant difference 9 %, "
            "worse 2 %, by a margin of 0.30 points."
        )
        assert verdict.sentences[0].numbers["better"] == 0.894

    def test_of_one_that_is_hardly_worth_it(self) -> None:
        """The interval says where it ends at the point mass."""
        verdict, text = told(replace(NETWORK, gain=0.002, gain_low=0.0, p_better=0.1, p_same=0.88, p_worse=0.02))
        assert (verdict.claim, verdict.network) == ("without", "none")
        assert text == (
            "Provisional: no placement looks worth its cost. The most promising, SE with r=16 in stage 1: "
            "+0.20 points (90 % interval no effect to +22.50); better 10 %, no relevant difference 88 %, worse 2 %, by "
            "a margin of 0.30 points."
        )

    def test_the_likeliest_to_be_better_is_named_even_if_a_cheaper_one_is_recommended(self) -> None:
        cheap = network_of("8", 0.55, 0.2, placement="stage2=8")
        verdict, text = told(cheap, replace(NETWORK, recommended=False, p_better=0.5))
        assert (verdict.claim, verdict.network) == ("undecided", "none")
        assert "The most promising, SE with r=16 in stage 1: +12.50 points" in text

    def test_of_a_loss(self) -> None:
        """A gain is a smaller loss; its interval turns round."""
        less = replace(NETWORK, mean=0.375, gain=-0.125, gain_low=-0.25, gain_high=-0.05)
        for chance, words in ((0.95, "looks better"), (0.5, "The most promising")):
            verdict, text = told(replace(less, p_better=chance), direction="minimize", unit="nats")
            assert words in text
            assert "+0.125 nats" in text
            assert "90 % interval +0.05 to +0.25" in text
            numbers = verdict.sentences[0].numbers
            assert [numbers[name] for name in ("gain", "lower", "upper", "better")] == pytest.approx(
                [0.125, 0.05, 0.25, chance]
            )

    def test_of_no_se_itself(self) -> None:
        verdict, text = told(replace(NO_SE, p_better=None))
        assert (verdict.claim, verdict.network) == ("undecided", "none")
        assert text == (
            "Provisional: no placement is distinguishable from the plain backbone. "
            "By the model estimate the plain backbone itself is best."
        )
        assert verdict.sentences[0].numbers["gain"] == 0
        worse = replace(NETWORK, mean=0.4, gain=-0.1, gain_low=-0.2, gain_high=-0.01, p_better=0.0, p_worse=0.95)
        verdict, text = told(NO_SE, replace(worse, p_same=0.05, recommended=False))
        assert (verdict.claim, verdict.network) == ("without", "none")
        assert text == (
            "Provisional: no placement looks worth its cost. The most promising, SE with r=16 in stage 1: "
            "-10.00 points (90 % interval -20.00 to -1.00); better 0 %, no relevant difference 5 %, worse 95 %, by a "
            "margin of 0.30 points. By the model estimate the plain backbone itself is best."
        )

    def test_without_an_interval_it_is_0(self) -> None:
        verdict, _ = told(replace(NETWORK, gain_low=None, gain_high=None))
        numbers = verdict.sentences[0].numbers
        assert [numbers["gain"], numbers["lower"], numbers["upper"]] == pytest.approx([0.125, 0, 0])

    def test_of_too_few_trainings(self) -> None:
        few = "Provisional: 8 trainings are too few to say whether SE helps here."
        for nothing in (told(), told(NETWORK, references={}), told(replace(NETWORK, gain=None))):
            assert (nothing[0].claim, nothing[0].network, nothing[1]) == ("unknown", None, few)


class TestRecommended:
    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_is_what_the_verdict_of_the_confirm_names_on_a_front_or_off(self, number: int) -> None:
        trials = trials_of((0.5, 10, "complete"), (0.7, 20, "complete"), (0.4, 30, "complete"))
        confirmed = read_confirmed(REPOSITORY / "tests" / "golden" / "run-0.1")
        assert confirmed is not None
        verdict = Verdict(phase="confirm", claim="use", network=trials[number].placement.key)
        found = summarize(findings(trials), confirmation=replace(confirmed, verdict=verdict))
        assert found.recommended is not None
        assert (found.recommended.trial, found.confirmed) == (number, True)
        assert found.recommendation == f"Recommended by the confirm: p{number} (trial {number})."

    def test_is_nothing_where_the_trainings_are_too_few_to_say_but_the_best_one_leads(self) -> None:
        found = summarize(findings(trials_of((0.5, 10, "complete"), (0.7, 20, "complete"), (0.4, 30, "complete"))))
        assert found.verdict.claim == "unknown"
        assert (found.recommended, found.confirmed) == (None, False)
        assert found.leading is not None
        assert found.leading.trial == 1
        assert found.recommendation == "Recommended: none yet. The best so far: p1 (trial 1)."

    @pytest.mark.parametrize(("limit", "leads"), [(30, 2), (25, 1), (10, 0)])
    def test_what_leads_is_within_the_limits_on_cost(self, limit: float, leads: int) -> None:
        trials = trials_of((0.5, 10, "complete"), (0.6, 20, "complete"), (0.7, 30, "complete"))
        found = summarize(replace(findings(trials), limits=Limits(macs=limit)))
        assert found.leading is not None
        assert (found.leading.trial, sorted(found.over)) == (leads, list(range(leads + 1, 3)))

    def test_is_nothing_where_no_network_is_within_the_limits_on_cost(self) -> None:
        trials = trials_of((0.5, 10, "complete"), (0.7, 20, "complete"))
        over = replace(findings(trials), limits=Limits(macs=9))
        found = summarize(over)
        assert (found.recommended, found.leading, found.recommendation) == (None, None, "Recommended: none.")
        (sentence,) = found.verdict.sentences
        assert sentence.text == (
            "Provisional: no trained network is within the limits on cost: even of the plain backbone, macs 10 is over "
            "the limit 9. Give a higher limit, or search a smaller backbone."
        )
        with pytest.raises(RunError, match="no trained network is within the limits on cost of the search"):
            select(over, "recommended")

    def test_is_nothing_before_a_training_is_complete(self) -> None:
        found = summarize(findings(trials_of((0.0, 1, "failed"))))
        assert (found.recommended, found.recommendation) == (None, "")

    def test_needs_no_model(self) -> None:
        assert (summary_of().estimated, summary_of(NETWORK).estimated) == (False, True)
        assert not summary_of(replace(NETWORK, mean=None)).estimated


class TestSummarize:
    def test_counts_what_was_trained_and_what_failed_by_itself(self) -> None:
        trials = trials_of(
            (0.5, 10, "complete"), (0.7, 30, "complete"), (0.1, 20, "stopped"), (0, 25, "failed"), (0, 26, "failed"),
            (0, 27, "failed"), (0, 28, "rejected"),
        )  # fmt: skip
        trials[4] = replace(trials[4], reason=INTERRUPTED)
        trials[5] = replace(trials[5], reason=LOST)
        trials[1] = replace(trials[1], role="reference")
        found = summarize(findings(trials), folder="RUN", budget=12, ended="why")
        assert (found.folder, found.budget, found.ended, found.unit) == ("RUN", 12, "why", findings(trials).unit)
        assert (found.trained, found.failed, found.complete) == (3, 1, 2)
        assert found.objective == OBJECTIVE
        assert {role: n.trial for role, n in found.references.items()} == {"baseline": 0, "reference": 1}
        assert (found.baseline, found.best) == (found.references["baseline"], found.front[1])
        assert [n.trial for n in found.front] == [0, 1]
        assert found.verdict == provisional_verdict(found)
        assert "3 trainings are too few" in found.verdict.sentences[0].text

    def test_a_network_has_the_facts_and_the_costs_of_its_row(self) -> None:
        row = pd.Series({
            "trial": 3, "key": "k", "placement": "p", "role": "", "metric": 0.5, "mean": float("nan"), "lower": 0.25,
            "params": 7, "latency": 1.5, "note": "text", "params_high": float("nan"),
        })  # fmt: skip
        assert Network.of(row) == Network(
            trial=3, key="k", placement="p", role="", metric=0.5, lower=0.25, costs={"params": 7, "latency": 1.5}
        )
        assert Network.of(row).value == 0.5
        assert replace(Network.of(row), mean=0.75).value == 0.75

    @pytest.mark.parametrize("n", [3, 30])
    def test_as_json_has_each_network_with_its_whole_row(self, n: int, space8: Space) -> None:
        """Without a posterior and with one."""
        found = findings(searched(space8, n), OBJECTIVE, space8)
        content = summarize(found, folder="RUN", budget=40, ended="why")
        plain = json.loads(json.dumps(as_json(content, found)))
        counts = {"out": "RUN", "ended": "why", "budget": 40, "trained": n, "failed": 0, "complete": n}
        assert {name: plain[name] for name in counts} == counts
        assert plain["objective"] == {
            "metric": "val_accuracy", "direction": "maximize", "unit": found.unit, "costs": ["gflops"],
        }  # fmt: skip
        assert [row["trial"] for row in plain["front"]] == found.front["trial"].tolist()
        assert all(set(row) == set(found.front.columns) for row in plain["front"])
        assert plain["best"] == next(row for row in plain["front"] if row["trial"] == content.best.trial)
        assert (plain["baseline"]["trial"], plain["reference"], plain["given"]) == (0, None, None)
        assert set(plain["baseline"]) == set(found.complete.columns)
        assert plain["gained"] == list(content.gained)
        assert plain["verdict"]["claim"] == content.verdict.claim
        nothing = findings(trials_of((0.0, 1, "failed")))
        assert as_json(summarize(nothing, folder="", budget=1, ended=""), nothing)["best"] is None


class TestGained:
    def gained(self, space: Space, n: int, **changes: Any) -> tuple[Summary, list[str]]:
        found = summarize(findings(searched(space, n), OBJECTIVE, space), folder="RUN", budget=n, ended="")
        return found, list(found.gained)

    def test_by_single_trainings(self) -> None:
        trials = trials_of((0.5, 100, "complete"), (0.75, 110, "complete"), (0.625, 90, "complete"))
        trials[2] = replace(trials[2], role="reference")
        found = summarize(findings(trials), folder="RUN", budget=3, ended="")
        assert list(found.gained) == [
            "Best observed: p1 (trial 1), val_accuracy 75.00 %.",
            "Compared with no SE (50.00 %): +25.00 points, params +0.909 %, MACs +10.000 %.",
            "Compared with SE everywhere at r=16 (62.50 %): +12.50 points, params +1.835 %, MACs +22.222 %.",
            "Each number is a single training: a difference may be noise until it is confirmed with fresh seeds.",
        ]

    def test_by_all_trainings_together(self, space8: Space) -> None:
        found, lines = self.gained(space8, 30)
        best, base = found.best, found.baseline
        assert best is not None
        assert base is not None
        assert lines[0] == (
            f"Best by the model estimate (30 trainings): {best.placement} (trial {best.trial}), "
            f"val_accuracy {100 * best.mean:.2f} %, "
            f"90 % interval {100 * best.lower:.2f} to {100 * best.upper:.2f} %, observed {100 * best.metric:.2f} %."
        )
        against = next(line for line in lines if line.startswith("Compared with no SE"))
        assert against.startswith(
            f"Compared with no SE ({100 * base.mean:.2f} %): {100 * (best.mean - base.mean):+.2f} points, params +"
        )
        assert lines[-1] == (
            "Validation metric: the best of many runs is optimistic; confirm with fresh seeds before reporting."
        )

    def test_of_networks_that_cannot_be_told_apart(self, space8: Space) -> None:
        """Whichever search ends in a tie: the rival is the cheaper one, and the chance is that of the best."""
        ties = 0
        for effect in (0.0, 0.002, 0.004, 0.006):
            trials = searched(space8, 30, effect=effect)
            found = summarize(findings(trials, OBJECTIVE, space8), folder="RUN", budget=30, ended="")
            if found.best is None or found.best.tied_with is None:
                continue
            ties += 1
            rival = next(n for n in found.front if n.trial == found.best.tied_with)
            assert rival.costs["gflops"] < found.best.costs["gflops"]
            assert found.gained[1] == (
                f"It is not distinguishable from the cheaper {rival.placement} (trial {rival.trial}): "
                f"it is better with probability {100 * found.best.p_beats:.0f} %; 90 % is required."
            )
        assert ties > 0


def test_a_loss_and_a_result_without_a_metric() -> None:
    """A difference keeps the sign of the metric."""
    objective = replace(OBJECTIVE, direction="minimize")
    trials = trials_of((0.75, 100, "complete"), (0.5, 110, "complete"))
    trials.append(replace(trials[1], number=2, **result_of("failed", reason="RuntimeError: no")))
    found = summarize(findings(trials, objective), folder="RUN", budget=3, ended="")
    assert "Compared with no SE (75.00 %): -25.00 points, params +0.909 %, MACs +10.000 %." in found.gained
    assert found.failed == 1
