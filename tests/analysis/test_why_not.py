"""Why SE did not help: each reason where it holds, and not where it does not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import OBJECTIVE, backbone_of, findings, searched
from test_verdict import against, confirmation

from se_nas.analysis.checks import Check, reasons_in_words
from se_nas.analysis.confirmation import Confirmation, Noise, Verdict
from se_nas.analysis.excitation import STILL, Change, Excitation, Saturation
from se_nas.analysis.explanation import Explanation
from se_nas.analysis.findings import Findings
from se_nas.analysis.gate_report import gate_check, gates_in_brief
from se_nas.analysis.probe_report import MANY, Probe, Probed, probe_check
from se_nas.analysis.why_not import CHEAP, Evidence, helped, why_not
from se_nas.core.config import Limits
from se_nas.core.trial import CostValue, Objective
from se_nas.space.exact_cost import CostModel
from se_nas.space.space import Space
from se_nas.space.spec import read_space


def reasons(found: Findings, **more: Any) -> dict[str, Check]:
    return {check.name: check for check in why_not(Evidence(found=found, **more))}


def priced(space: Space, objective: Objective = OBJECTIVE, n: int = 12) -> Findings:
    """A search without any effect, whose trials have the true costs of resnet8."""
    costs = CostModel(backbone_of("resnet8"), space.units, (1, 8, 8))
    trials = [replace(t, costs=costs(t.placement).values()) for t in searched(space, n, effect=0.0)]
    return findings(trials, objective, space)


class TestNoise:
    def test_of_a_search_is_the_interval_of_its_best_gain(self, space8: Space) -> None:
        found = findings(searched(space8, 20, effect=0.0), space=space8)
        check = reasons(found)["noise"]
        others = found.complete[found.complete["role"] != "baseline"]
        best = others.loc[others["gain"].idxmax()]
        half = (best["gain_high"] - best["gain_low"]) / 2
        assert check.numbers["half_width"] == pytest.approx(half)
        assert check.numbers["noise"] == pytest.approx(found.told.posterior.noise)  # type: ignore[union-attr]
        assert check.holds == (half > found.margin)

    def test_holds_where_the_margin_is_smaller_and_only_there(self, space8: Space) -> None:
        trials = searched(space8, 20, effect=0.0)
        for asked, holds in ((0.01, True), (20.0, False)):  # points
            found = Findings(trials=trials, objective=OBJECTIVE, space=space8, asked=asked)
            check = reasons(found)["noise"]
            assert check.holds is holds
            assert check.text.startswith("The noise exceeds the margin: " if holds else "No: ")

    def test_of_a_confirm_is_its_own_interval(self, space8: Space) -> None:
        confirmed = confirmation((0.51, 1100, against(0.004, 0.012, beats=False)))
        confirmed = replace(
            confirmed, margin=0.01, noise=Noise(seed_sd=0.02, image_sd=0.0, seed_correlation=0, degrees=4)
        )
        found = findings(searched(space8, 20, effect=0.0), space=space8)
        check = reasons(found, confirmation=confirmed)["noise"]
        assert check.numbers == pytest.approx({"half_width": 0.012, "margin": 0.01, "noise": 0.02})
        assert check.holds
        assert "more seeds" in check.text
        assert not reasons(found, confirmation=replace(confirmed, margin=0.013))["noise"].holds

    def test_too_few_trainings_have_no_interval(self, space8: Space) -> None:
        found = findings(searched(space8, 4, effect=0.0), space=space8)
        assert reasons(found)["noise"].holds is None


class TestEpochs:
    def test_curves_are_needed(self, space8: Space) -> None:
        found = findings(searched(space8, 20, effect=0.0), space=space8)
        check = reasons(found)["epochs"]
        assert (check.holds, check.text) == (None, "Not tested: there are too few learning curves.")

    @pytest.mark.parametrize(("rise", "holds"), [(0.02, True), (0.0, False), (-0.02, False)])
    def test_a_gain_that_still_rises_asks_for_more(self, space8: Space, rise: float, holds: bool) -> None:
        from se_nas.core.trial import Epoch

        rng = np.random.default_rng(0)
        trials = []
        for t in searched(space8, 24, effect=0.0):
            share = t.placement.blocks / 3
            curve = tuple(
                Epoch(epoch=e, metrics={"val_accuracy": 0.5 + rise * share * (e > 6) * (e - 6) + rng.normal(0, 0.003)})
                for e in range(1, 9)
            )
            trials.append(replace(t, curve=curve, identity=replace(t.identity, epochs=8)))
        check = reasons(findings(trials, space=space8))["epochs"]
        assert check.holds is holds
        if holds:
            assert check.text.startswith("There are too few epochs for SE: the gain of SE everywhere changes by +2.")
            assert check.text.endswith("give --epochs 16.")
            assert check.numbers["lower"] > 0.01


class TestLearningRate:
    def probe(self, none: list[float | None], everywhere: list[float | None], **more: Any) -> Probe:
        lrs = (0.1 / 3, 0.1, 0.1 * 3)
        rows = [
            Probed(placement=label, role=role, lr=lr, value=value)
            for label, role, values in (("none", "baseline", none), ("all:16", "reference", everywhere))
            for lr, value in zip(lrs, values, strict=True)
        ]
        facts: dict[str, Any] = {"metric": "val_accuracy", "direction": "maximize", "unit": "share", "lr": 0.1,
                                 "epochs": 5, "seed": 0, "rows": tuple(rows)}  # fmt: skip
        return Probe(**{**facts, **more})

    def test_another_rate_has_to_gain_more_than_noise_and_margin(self) -> None:
        noise = 0.004
        for gain, holds in ((MANY * noise + 0.001, True), (MANY * noise - 0.001, False)):
            probe = self.probe([0.8, 0.9, 0.9 + gain], [0.8, 0.9, 0.89])
            assert probe_check(probe, noise=noise, margin=0.003, why_not="").holds is holds
        probe = self.probe([0.8, 0.9, 0.91], [0.8, 0.9, 0.89])
        assert probe_check(probe, noise=None, margin=0.003, why_not="").holds
        assert not probe_check(probe, noise=None, margin=0.02, why_not="").holds

    def test_says_what_every_training_reached_and_what_to_give(self) -> None:
        check = probe_check(self.probe([0.95, 0.9, 0.7], [0.96, 0.9, None]), noise=0.004, margin=0.003, why_not="")
        assert check.text == (
            "The learning rate of 0.1 is far from good: no SE gains 5.00 points at 0.0333 and SE with r=16 everywhere "
            "gains 6.00 points at 0.0333. No SE 95.00 % at 0.0333, 90.00 % at 0.1, 70.00 % at 0.3; SE with r=16 "
            "everywhere 96.00 % at 0.0333, 90.00 % at 0.1, fails at 0.3 (5 epochs, one seed). Search again with --lr "
            "0.0333 and another --out."
        )

    def test_a_rate_that_fails_is_far_from_good(self) -> None:
        check = probe_check(self.probe([0.9, None, None], [0.9, 0.9, 0.9]), noise=0.004, margin=0.003, why_not="")
        assert check.holds
        assert "no SE fails at it" in check.text
        nothing = probe_check(self.probe([None] * 3, [None] * 3), noise=0.004, margin=0.003, why_not="")
        assert not nothing.holds, "nothing else is better"

    def test_of_a_loss_less_is_better(self) -> None:
        for values, holds in (([0.5, 0.9, 0.9], True), ([1.5, 0.9, 0.9], False)):
            probe = self.probe(values, [0.9, 0.9, 0.9], metric="val_loss", direction="minimize", unit="nats")
            assert probe_check(probe, noise=0.01, margin=0.01, why_not="").holds is holds

    def test_without_a_probe_it_says_how_to_make_one(self) -> None:
        check = probe_check(None, noise=None, margin=0.0, why_not="se-nas report X --probe-lr trains six")
        assert (check.holds, check.text) == (None, "Not tested: se-nas report X --probe-lr trains six.")


class TestGates:
    def report(self, changed: float | None, **more: Any) -> Explanation:
        blocks = tuple(
            Excitation(
                block=f"layer{i}", module=f"layer{i}.se", kind="block", channels=2, size=(4, 4), mean=(0.4, 0.6),
                sd=(0.1, 0.1), variation=0.01 * i, saturation=Saturation(at_zero=0.0, at_one=0.0),
            )
            for i in (1, 2, 3)
        )  # fmt: skip
        facts: dict[str, Any] = {"placement": "all:16", "trial": 4, "images": 200, "blocks": blocks}
        return Explanation(**{**facts, "all_frozen": Change(changed=changed), **more})

    def test_in_brief_they_are_what_the_check_rests_on(self) -> None:
        brief = gates_in_brief(self.report(0.25))
        assert brief["blocks"][1] == {"block": "layer2", "variation": 0.02, "mean": 0.5}
        assert {name: brief[name] for name in ("placement", "trial", "images", "changed", "classes", "seen")} == {
            "placement": "all:16", "trial": 4, "images": 200, "changed": 0.25, "classes": True, "seen": True,
        }  # fmt: skip
        assert gates_in_brief(self.report(0.25, all_frozen=None))["changed"] is None

    def test_are_constant_where_fixing_them_changes_next_to_nothing(self) -> None:
        assert gate_check(self.report(STILL)).holds
        check = gate_check(self.report(0.0))
        assert check.text == (
            "The gates became constant: with each fixed at its mean over 200 validation images, 0.0 % of the "
            "predictions of SE with r=16 everywhere (trial 4) change; the gates are 0.50 on average, and vary by 1.0 "
            "to 3.0 % from image to image, the least in layer1, layer2 and layer3. Such a block is a fixed rescaling, "
            "which the neighbouring layers can absorb."
        )
        other = gate_check(self.report(0.25, classes=False))
        assert "the output of SE with r=16 everywhere (trial 4) changes by 25.0 %" in other.text
        assert not gate_check(self.report(STILL + 0.001)).holds

    def test_without_a_network_or_an_output_that_can_be_compared_it_is_not_tested(self) -> None:
        assert gate_check(None, why_not="there are no weights").text == "Not tested: there are no weights."
        check = gate_check(self.report(None))
        assert check.holds is None
        assert "vary by 1.0 to 3.0 %" in check.text
        assert gate_check(self.report(0.0, all_frozen=None)).holds is None
        assert gate_check(replace(self.report(0.0), blocks=())).holds is None

    def test_noise_in_place_of_images_is_said(self) -> None:
        assert "images of noise (the trainer shows none)" in gate_check(self.report(0.5, real=False)).text


class TestCost:
    @pytest.mark.parametrize("cost", ["params", "macs", "gflops", "activations"])
    def test_the_cheapest_is_that_of_all_placements(self, space8: Space, cost: str) -> None:
        """By the full table of costs of the space."""
        found = priced(space8, replace(OBJECTIVE, cost=cost))
        table = CostModel(backbone_of("resnet8"), space8.units, (1, 8, 8)).table(space8)[cost]
        dearer = table[table > table.min()]
        check = reasons(found)["cost"]
        assert check.numbers["added"] == pytest.approx(dearer.min() / table.min() - 1)
        assert check.holds == (check.numbers["added"] > CHEAP)

    def test_a_space_of_wide_blocks_everywhere_holds_none(self, units8: Any) -> None:
        wide = Space(read_space({"reductions": ["none", 1]}), units8[2:])  # 64 channels, r=1: 8192 of 77,754 parameters
        check = reasons(priced(wide, replace(OBJECTIVE, cost="params"), n=2))["cost"]
        assert check.holds
        assert check.numbers["added"] == pytest.approx(8192 / 77754)
        assert "The space has no cheap placement: SE with r=1 in stage 3 adds 11 % parameters" in check.text

    def test_limits_may_leave_nothing(self, space8: Space) -> None:
        found = priced(space8)
        allowed = reasons(found, limits=Limits(params=77_800.0))["cost"]
        assert (allowed.holds, "stage 1" in allowed.text) == (False, True)
        none = reasons(found, limits=Limits(params=77_755.0))["cost"]
        assert none.holds
        assert none.text == "The space has no cheap placement: none with SE is within the limits."

    def test_of_measured_costs_the_trained_networks_tell(self, space8: Space) -> None:
        found = priced(space8, replace(OBJECTIVE, cost="latency"), n=40)
        assert reasons(found)["cost"].holds is None
        trials = [replace(t, costs={**t.costs, "latency": CostValue(value=1.0 + 0.2 * t.placement.blocks, unit="ms")})
                  for t in found.trials]  # fmt: skip
        check = reasons(findings(trials, found.objective, space8))["cost"]
        assert check.numbers["added"] == pytest.approx(0.2)
        assert check.holds


class TestInWords:
    CHECKS = tuple(Check(name=n, question="?", holds=h, text=f"The {n} is it.", numbers={"x": 1.0})
                   for n, h in (("noise", True), ("gates", None), ("cost", False)))  # fmt: skip

    def test_those_that_hold_are_named(self) -> None:
        (only,) = reasons_in_words(self.CHECKS)
        assert (only.text, only.numbers) == ("Reason: the noise is it.", {"x": 1.0})

    def test_if_none_holds_it_is_said_which_were_tested(self) -> None:
        (only,) = reasons_in_words(self.CHECKS[1:])
        assert only.text == "None of the usual reasons applies (tested: cost; not tested: gates)."
        assert reasons_in_words(()) == ()

    def test_only_where_there_is_something_to_explain(self) -> None:
        claims = {claim: helped(Verdict(phase="search", claim=claim)) for claim in
                  ("use", "without", "undecided", "unknown")}  # fmt: skip
        assert claims == {"use": True, "without": False, "undecided": False, "unknown": True}


def test_every_reason_has_a_number_or_says_why_not(space8: Space) -> None:
    confirmed: Confirmation = confirmation((0.51, 1100, against(0.004, 0.012, beats=False)))
    for evidence in (Evidence(found=priced(space8)), Evidence(found=priced(space8), confirmation=confirmed)):
        checks = why_not(evidence)
        assert [check.name for check in checks] == ["noise", "epochs", "learning rate", "gates", "cost"]
        for check in checks:
            assert check.text.endswith(".")
            assert check.numbers if check.holds is not None else check.text.startswith("Not tested")
            assert all(math.isfinite(value) for value in check.numbers.values())
