"""What a confirm and a search say: which network, with which numbers, in which words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_decisions import networks_of

from se_nas.analysis.confirmation import Confirmation, Difference, Verdict
from se_nas.analysis.power import seeds_to_decide
from se_nas.analysis.summary import LIKELY, UNLIKELY, Network, Summary, provisional_verdict
from se_nas.analysis.verdict import added_costs, final_verdict, price_text
from se_nas.core.trial import CostValue, Direction, Objective


def against(gain: float, reach: float, *, beats: bool, p: float = 0.01) -> Difference:
    """A difference with an interval of its own of a reach, and one of its family of twice that."""
    return Difference(
        mean=gain, interval=(gain - reach, gain + reach), family_interval=(gain - 2 * reach, gain + 2 * reach),
        p=p / 2, family_p=p, beats=beats,
    )  # fmt: skip


def confirmation(
    *others: tuple[float, float, Difference], reference: Difference | None = None, direction: Direction = "maximize"
) -> Confirmation:
    """No SE with 1000 parameters, and networks "1", ... by validation, parameters and difference; "1" is the winner."""
    base, *rest = networks_of(0.5, *(v for v, _, _ in others))
    networks = [replace(base, costs={"params": CostValue(value=1000, unit="parameters")})]
    for network, (_, params, difference) in zip(rest, others, strict=True):
        known = {"baseline": difference} | ({"reference": reference} if reference and network.key == "1" else {})
        networks.append(replace(network, costs={"params": CostValue(value=params, unit="parameters")}, against=known))
    return Confirmation(
        metric="val_accuracy", direction=direction, unit="share", cost="params", epochs=1, search_epochs=1,
        seeds=(0, 1, 2), family=tuple(n.key for n in rest), test_images=200, openings=1, winner="1",
        networks=tuple(networks), verdict=Verdict(phase="confirm", claim="unknown"),
    )  # fmt: skip


class TestVerdict:
    @pytest.mark.parametrize("direction", ["maximize", "minimize"])
    def test_not_worth_it_names_what_the_best_of_all_may_still_gain(self, direction: Direction) -> None:
        """Each by its own interval: to say it of all, each has to be shown, and no adjustment is needed."""
        sign = 1.0 if direction == "maximize" else -1.0
        found = confirmation(
            (0.6, 1100, against(sign * 0.01, 0.02, beats=False, p=0.3)),
            (0.55, 1200, against(-sign * 0.01, 0.05, beats=False, p=0.6)), direction=direction,
        )  # fmt: skip
        verdict = final_verdict(replace(found, margin=0.041))
        assert (verdict.claim, verdict.network) == ("without", "0")
        assert verdict.sentences[0].numbers == pytest.approx({"margin": 0.041, "ceiling": 0.04, "chance": 0.05})
        assert verdict.sentences[1].numbers == pytest.approx({"gain": 0.01, "lower": -0.03, "upper": 0.05, "p": 0.3})
        assert final_verdict(replace(found, margin=0.039)).claim == "undecided", "one may gain 4 points"

    def test_undecided_recommends_the_plain_network_and_says_what_would_decide(self) -> None:
        difference = replace(against(0.006, 0.02, beats=False), error=0.012, image_error=0.001)
        found = replace(confirmation((0.6, 1100, difference)), margin=0.003, seed_seconds=60.0)
        verdict = final_verdict(found, run="runs/mine")
        assert (verdict.claim, verdict.network) == ("undecided", "0")
        seeds = seeds_to_decide(difference, seeds=3, margin=0.003, sign=1.0)
        assert seeds is not None
        assert verdict.sentences[-1].numbers == {"seeds": float(seeds), "minutes": float(seeds - 3)}
        assert f"se-nas confirm runs/mine --seeds {seeds}" in verdict.sentences[-1].text

    def test_more_seeds_do_not_help_where_the_test_images_are_too_few(self) -> None:
        difference = replace(against(0.004, 0.02, beats=False), error=0.012, image_error=0.0119)
        verdict = final_verdict(replace(confirmation((0.6, 1100, difference)), margin=0.003))
        assert verdict.claim == "undecided"
        assert "More seeds would not settle it: 200 test images alone" in verdict.sentences[-1].text

    @pytest.mark.parametrize("gain", [-0.02, 0.0, 0.004, 0.02])
    def test_the_number_of_seeds_decides_as_often_as_promised(self, gain: float) -> None:
        """Against simulation: normal differences with the two variances, judged by intervals of the same widths."""
        by_seeds, images, seeds, margin = 0.02, 0.002, 4, 0.008
        error = np.sqrt(by_seeds**2 / seeds + images**2)
        difference = Difference(
            mean=gain, interval=(gain - 1.7 * error, gain + 1.7 * error), error=error, image_error=images,
            family_interval=(gain - 2.1 * error, gain + 2.1 * error),
        )  # fmt: skip
        number = seeds_to_decide(difference, seeds=seeds, margin=margin, sign=1.0)
        assert number is not None

        def decided(seeds: int) -> float:
            error = np.sqrt(by_seeds**2 / seeds + images**2)
            seen = np.random.default_rng(0).normal(gain, error, 40_000)
            return float(((seen - 2.1 * error > 0) | (seen + 1.7 * error < margin)).mean())

        assert decided(number) >= 0.79
        assert number == seeds + 1 or decided(number - 1) < 0.81

    @pytest.mark.parametrize("direction", ["maximize", "minimize"])
    def test_a_claim_has_the_interval_of_its_family_and_its_price(self, direction: Direction) -> None:
        sign = 1.0 if direction == "maximize" else -1.0
        verdict = final_verdict(confirmation((0.6, 1100, against(sign * 0.05, 0.01, beats=True)), direction=direction))
        assert (verdict.claim, verdict.network) == ("use", "1")
        numbers = {"gain": 0.05, "lower": 0.03, "upper": 0.07, "params_percent": 10.0}
        assert verdict.sentences[0].numbers == pytest.approx(numbers)
        assert "10 % more parameters" in verdict.sentences[0].text
        assert verdict.sentences[1].numbers["p"] == 0.01
        cheaper = final_verdict(confirmation((0.6, 900, against(0.05, 0.01, beats=True))))
        assert "10 % fewer parameters" in cheaper.sentences[0].text

    @pytest.mark.parametrize(
        ("difference", "words"),
        [
            (against(0.05, 0.01, beats=True), "beats it"),
            (against(0.05, 0.01, beats=False), "is not proven"),
            (against(-0.05, 0.01, beats=False), "is not proven"),
            (against(0.01, 0.02, beats=False), "not distinguishable"),
            (against(-0.01, 0.02, beats=False), "not distinguishable"),
        ],
    )
    def test_against_se_everywhere(self, difference: Difference, words: str) -> None:
        found = confirmation((0.6, 1100, against(0.05, 0.01, beats=True)), reference=difference)
        sentence = final_verdict(found).sentences[2]
        assert sentence.text.endswith(f": {words}.")
        assert sentence.numbers["gain"] == difference.mean
        assert (sentence.numbers["lower"], sentence.numbers["upper"]) == difference.family_interval, "as its p"

    def test_names_what_is_cheaper_and_beats_it_too_and_nothing_else(self) -> None:
        """Of four others: cheaper and better, cheaper and not proven, dearer, and as dear."""
        found = confirmation(
            (0.9, 1100, against(0.05, 0.01, beats=True)), (0.8, 1050, against(0.04, 0.01, beats=True)),
            (0.8, 1020, against(0.03, 0.02, beats=False)), (0.8, 1200, against(0.06, 0.01, beats=True)),
            (0.8, 1100, against(0.06, 0.01, beats=True)),
        )  # fmt: skip
        verdict = final_verdict(found)
        assert verdict.network == "1"
        cheaper = [s for s in verdict.sentences if s.text.startswith("Cheaper")]
        assert [s.numbers["gain"] for s in cheaper] == [0.04]
        assert "SE with r=16 in stage 2" in cheaper[0].text

    def test_without_an_interval_of_the_family_nothing_is_claimed(self) -> None:
        difference = replace(against(0.05, 0.01, beats=True), family_interval=None)
        assert final_verdict(confirmation((0.6, 1100, difference))).claim == "unknown"

    @pytest.mark.parametrize("direction", ["maximize", "minimize"])
    def test_tells_what_became_of_the_best_promise(self, direction: Direction) -> None:
        sign = 1.0 if direction == "maximize" else -1.0
        found = confirmation(
            (0.6, 1100, against(0.05, 0.01, beats=True)), (0.6, 1100, against(0.05, 0.01, beats=True)),
            direction=direction,
        )  # fmt: skip
        base, *others = found.networks
        told = [
            replace(n, promised=sign * p, optimism=o) for n, p, o in zip(others, (0.7, 0.8), (-0.01, 0.02), strict=True)
        ]
        sentence = final_verdict(replace(found, networks=(base, *told))).sentences[-1]
        assert (sentence.numbers["promised"], sentence.numbers["optimism"]) == (sign * 0.8, 0.02)
        assert "overestimated by 2.00 points" in sentence.text


CLEAR, OPEN = against(0.05, 0.01, beats=True, p=0.0123), against(0.01, 0.02, beats=False, p=0.3)


def words(found: Confirmation) -> list[str]:
    return [sentence.text for sentence in final_verdict(found).sentences]


def priced(found: Confirmation, key: str, **costs: float) -> Confirmation:
    """A confirmation in which a network has these costs too."""
    more = {name: CostValue(value=value, unit="") for name, value in costs.items()}
    return replace(
        found, networks=tuple(replace(n, costs={**n.costs, **more}) if n.key == key else n for n in found.networks)
    )


class TestWords:
    """What a verdict says, in full."""

    def test_of_a_network_that_beats_no_se_beside_a_cheaper_one(self) -> None:
        cheaper = (0.6, 1050, against(0.04, 0.01, beats=True))
        assert words(confirmation((0.6, 1100, CLEAR), cheaper, reference=OPEN)) == [
            "Use SE with r=16 in stage 1: +5.00 points (simultaneous 90 % interval 3.00 to 7.00) for 10 % more "
            "parameters. It beats the plain backbone.",
            "Risk of a false claim: with no true effect, the best of 2 comparisons would show such a gain in 1.2 % of "
            "confirms (p = 0.012; 3 seeds, 200 test images).",
            "Compared with SE everywhere: +1.00 points (simultaneous 90 % interval -3.00 to 5.00, p = 0.3): "
            "not distinguishable.",
            "Cheaper, and beats it too: SE with r=16 in stage 2, +4.00 points "
            "(simultaneous 90 % interval 2.00 to 6.00) "
            "for 5 % more parameters.",
        ]

    def test_of_one_comparison_far_out(self) -> None:
        found = confirmation((0.6, 1100, against(0.05, 0.01, beats=True, p=1e-5)))
        assert words(replace(found, test_images=10_000))[1] == (
            "Risk of a false claim: with no true effect, the comparison would show such a gain in less than 0.01 % of "
            "confirms (p < 0.0001; 3 seeds, 10,000 test images)."
        )
        limit = confirmation((0.6, 1100, against(0.05, 0.01, beats=True, p=1e-4)))
        assert "in 0.01 % of confirms (p = 0.0001;" in words(limit)[1]
        some = confirmation((0.6, 1100, against(0.05, 0.01, beats=True, p=0.0344)))
        assert "in 3.4 % of confirms (p = 0.034;" in words(some)[1]

    def test_of_a_loss(self) -> None:
        """Less is better: a gain is a smaller loss, and the sentence says which sign it has."""
        reference = against(-0.01, 0.02, beats=False, p=0.3)
        cheaper = (0.6, 1050, against(-0.04, 0.01, beats=True))
        found = confirmation(
            (0.6, 1100, against(-0.05, 0.01, beats=True)), cheaper, reference=reference, direction="minimize"
        )
        loss = words(replace(found, metric="val_loss", unit="nats"))
        assert loss[0] == (
            "Use SE with r=16 in stage 1: +0.05 nats of val_loss (less is better; + is better here) "
            "(simultaneous 90 % interval 0.03 to 0.07) for 10 % more parameters. It beats the plain backbone."
        )
        assert loss[2].startswith(
            "Compared with SE everywhere: +0.01 nats (simultaneous 90 % interval -0.03 to 0.05, p = 0.3)"
        )
        assert "stage 2, +0.04 nats (simultaneous 90 % interval 0.02 to 0.06)" in loss[3]

    def test_of_no_network_that_is_worth_it(self) -> None:
        found = confirmation((0.6, 1100, OPEN), (0.55, 1200, against(-0.01, 0.05, beats=False, p=0.6)))
        assert words(replace(found, margin=0.05)) == [
            "Not worth it: none of the 2 compared placements gains 5.00 points or more over the plain backbone "
            "(at most 4.00 points by individual intervals; 5 % risk of error); ship the plain backbone.",
            "The best on validation, SE with r=16 in stage 1: +1.00 points on the test set "
            "(simultaneous 90 % interval -3.00 to 5.00, p = 0.3; 3 seeds, 200 test images).",
        ]
        score = words(replace(found, metric="val_f1", unit="F1", test_images=12_345, margin=0.05))
        assert score[1] == (
            "The best on validation, SE with r=16 in stage 1: +0.01 F1 of val_f1 on the test set "
            "(simultaneous 90 % interval -0.03 to 0.05, p = 0.3; 3 seeds, 12,345 test images)."
        )
        assert "gains 0.05 F1 or more" in score[0]

    def test_where_even_the_upper_end_is_no_gain_it_is_none(self) -> None:
        found = final_verdict(replace(confirmation((0.6, 1100, against(-0.05, 0.01, beats=False, p=1.0))), margin=0.01))
        assert "(at most 0.00 points by individual intervals;" in found.sentences[0].text
        assert found.sentences[0].text.startswith(
            "Not worth it: the compared placement does not gain 1.00 points or more"
        )
        assert found.sentences[0].numbers["ceiling"] == pytest.approx(-0.04)

    def test_of_what_is_undecided(self) -> None:
        difference = replace(against(0.006, 0.02, beats=False, p=0.3), error=0.012, image_error=0.001)
        found = replace(confirmation((0.6, 1100, difference)), margin=0.003, seed_seconds=90.0)
        seeds = seeds_to_decide(difference, seeds=3, margin=0.003, sign=1.0)
        assert seeds is not None
        assert words(found) == [
            "Undecided: no placement has been shown to beat the plain backbone, and a gain of 0.30 points (the margin) "
            "cannot be ruled out. Until this is decided, the plain backbone is recommended.",
            "The best on validation, SE with r=16 in stage 1: +0.60 points on the test set "
            "(simultaneous 90 % interval -3.40 to 4.60, p = 0.3; 3 seeds, 200 test images).",
            f"If the true gain is what was seen, {seeds} seeds would decide with 80 % probability, about "
            f"{1.5 * (seeds - 3):.1f} more minutes: se-nas confirm RUN --seeds {seeds}",
        ]

    def test_of_one_seed(self) -> None:
        found = confirmation((0.6, 1100, Difference(mean=0.05)))
        verdict = final_verdict(found)
        assert (verdict.claim, verdict.network) == ("unknown", None)
        assert words(found) == [
            "One seed gives no estimate of the noise: SE with r=16 in stage 1 has +5.00 points against the plain "
            "backbone on the test set, and nothing can be claimed. Give --seeds 3 or more."
        ]
        assert verdict.sentences[0].numbers == {"gain": 0.05}

    def test_of_nothing_to_compare(self) -> None:
        found = confirmation((0.6, 1100, CLEAR))
        alone, (base, one) = replace(found, winner=None), found.networks
        for nothing in (alone, replace(found, networks=(base, replace(one, against={}))), replace(found, networks=())):
            verdict = final_verdict(nothing)
            assert (verdict.phase, verdict.claim, verdict.network) == ("confirm", "unknown", None)
            assert words(nothing) == [
                "Nothing can be said: the plain backbone or all others have no finished training."
            ]

    @pytest.mark.parametrize("direction", ["maximize", "minimize"])
    def test_of_a_winner_that_beats_nothing_it_names_the_best_on_validation_that_does(
        self, direction: Direction
    ) -> None:
        sign = 1.0 if direction == "maximize" else -1.0
        beaten = against(sign * 0.05, 0.01, beats=True)
        found = confirmation(
            (0.9, 1100, OPEN), (0.5 + sign * 0.1, 1200, beaten), (0.5 + sign * 0.2, 1300, beaten),
            (0.5 + sign * 0.15, 1400, beaten), direction=direction,
        )  # fmt: skip
        assert final_verdict(found).network == "3"
        assert words(found)[0].startswith("Use SE with r=16 in stage 3: +5.00 points")

    def test_of_what_the_search_promised(self) -> None:
        found = confirmation((0.6, 1100, CLEAR))
        base, one = found.networks
        promise = "The search predicted {} for SE with r=16 in stage 1; confirmed {} on the same validation set: {}."
        told = replace(found, networks=(base, replace(one, promised=0.62, optimism=0.02)))
        assert words(told)[-1] == promise.format("62.00 %", "60.00 %", "overestimated by 2.00 points")
        assert final_verdict(told).sentences[-1].numbers == {"promised": 0.62, "confirmed": 0.6, "optimism": 0.02}
        run = replace(found, networks=(base, replace(one, promised=0.59, optimism=-0.01, observed_optimism=0.03)))
        both = "underestimated by 1.00 points, its single run overestimated by 3.00 points"
        assert words(run)[-1] == promise.format("59.00 %", "60.00 %", both)
        assert words(replace(told, unit="F1"))[-1] == promise.format("0.62 F1", "0.6 F1", "overestimated by 0.02 F1")
        exact = replace(found, networks=(base, replace(one, promised=0.6, optimism=0.0)))
        assert words(exact)[-1].endswith("overestimated by 0.00 points.")
        nothing = replace(found, networks=(base, replace(one, promised=0.0, optimism=-0.6)))
        assert words(nothing)[-1] == promise.format("0.00 %", "60.00 %", "underestimated by 60.00 points")
        assert len(words(found)) == 2


class TestPrices:
    """By how much a network is dearer than no SE."""

    def test_are_those_of_the_front_and_of_latency_where_both_are_known(self) -> None:
        found = confirmation((0.6, 1100, CLEAR))
        for key, factor in (("0", 1.0), ("1", 1.5)):
            found = priced(found, key, macs=2000 * factor, latency=4 * factor, activations=7)
        by_macs = final_verdict(replace(found, cost="macs")).sentences[0]
        assert set(by_macs.numbers) == {"gain", "lower", "upper", "params_percent", "macs_percent", "latency_percent"}
        assert by_macs.numbers["macs_percent"] == pytest.approx(50)
        assert by_macs.numbers["params_percent"] == pytest.approx(10)
        assert "latency_percent" in final_verdict(found).sentences[0].numbers
        assert "macs_percent" not in final_verdict(found).sentences[0].numbers

    def test_are_left_out_where_one_is_unknown_or_nothing(self) -> None:
        one, two = ({"params": CostValue(value=v, unit=""), "macs": CostValue(value=v, unit="")} for v in (5, 4))
        assert added_costs(one, two, ["params", "macs", "latency"]) == pytest.approx({"params": 25, "macs": 25})
        assert added_costs(one, {"params": two["params"]}, ["macs", "params"]) == pytest.approx({"params": 25})
        assert added_costs({"params": one["params"]}, two, ["macs", "params"]) == pytest.approx({"params": 25})
        assert added_costs(one, {"params": CostValue(value=0, unit="")}, ["params"]) == {}

    def test_in_words(self) -> None:
        assert price_text({}) == ""
        assert price_text({"params": 0.0}) == " for 0 % more parameters"
        assert price_text({"params": 1.234, "latency": -20.0}) == " for 1.2 % more parameters and 20 % less latency"

    def test_what_is_as_dear_or_has_no_known_cost_is_not_called_cheaper(self) -> None:
        found = confirmation((0.6, 1100, CLEAR), (0.6, 1050, CLEAR))
        assert any(s.startswith("Cheaper") for s in words(found))
        by_macs = replace(found, cost="macs")
        for partly in (by_macs, priced(by_macs, "1", macs=5), priced(by_macs, "2", macs=5)):
            assert not any(s.startswith("Cheaper") for s in words(partly))
        assert any(s.startswith("Cheaper") for s in words(priced(priced(by_macs, "1", macs=5), "2", macs=4)))


def network_of(key: str, mean: float, p_better: float, **more: Any) -> Network:
    """A network of a search's summary; what it is not better it is without a difference."""
    facts: dict[str, Any] = {
        "trial": 0, "role": "", "metric": 0.5, "key": key, "placement": f"stage1={key}", "mean": mean,
        "gain": mean - 0.5, "gain_low": mean - 0.6, "gain_high": mean - 0.4,
        "p_better": p_better, "p_same": 1.0 - p_better, "p_worse": 0.0,
        "costs": {"params": 1000}, "posterior_front": True, "recommended": True,
    }  # fmt: skip
    return Network(**{**facts, **more})


class TestProvisional:
    def told(self, *front: Network, direction: Direction = "maximize") -> Verdict:
        sign = 1.0 if direction == "maximize" else -1.0
        return provisional_verdict(
            Summary(
                folder="RUN",
                ended="",
                budget=9,
                trained=9,
                failed=0,
                complete=9,
                unit="share",
                front=front,
                objective=Objective(metric="val_accuracy", direction=direction, cost="params"),
                best=max(front, key=lambda n: sign * n.value),
                references={"baseline": network_of("none", 0.5, 0.0)},
                likeliest=max((n for n in front if n.key != "none"), key=lambda n: n.p_better or 0.0, default=None),
            )
        )

    def test_recommends_the_best_recommended_member_of_the_front(self) -> None:
        """Not the best that cannot be told apart from a cheaper one, nor one off the front."""
        verdict = self.told(
            network_of("a", 0.6, 0.99), network_of("b", 0.7, 0.99), network_of("c", 0.8, 0.99, recommended=False),
            network_of("d", 0.9, 0.99, posterior_front=False),
        )  # fmt: skip
        assert (verdict.claim, verdict.network) == ("use", "b")
        assert verdict.sentences[0].numbers["gain"] == pytest.approx(0.2)
        assert verdict.sentences[0].numbers["better"] == 0.99

    def test_smaller_is_better_where_the_metric_is_minimised(self) -> None:
        verdict = self.told(network_of("a", 0.4, 0.99), network_of("b", 0.3, 0.99), direction="minimize")
        assert (verdict.claim, verdict.network) == ("use", "b")
        assert verdict.sentences[0].numbers["gain"] == pytest.approx(0.2)
        assert verdict.sentences[0].numbers["lower"] == pytest.approx(0.1)

    @pytest.mark.parametrize(
        ("chance", "claim", "network"),
        [
            (LIKELY, "use", "a"),
            (LIKELY - 0.01, "undecided", "none"),
            (UNLIKELY + 0.01, "undecided", "none"),
            (UNLIKELY, "without", "none"),
        ],
    )
    def test_needs_a_chance_of_nine_in_ten(self, chance: float, claim: str, network: str) -> None:
        verdict = self.told(network_of("none", 0.5, 0.0), network_of("a", 0.6, chance))
        assert (verdict.claim, verdict.network) == (claim, network)

    def test_of_those_that_are_likely_to_be_worth_it_the_best_is_recommended(self) -> None:
        """One that is surely better, but perhaps by less than the margin, is not worth its cost yet."""
        verdict = self.told(network_of("a", 0.6, 0.92), network_of("b", 0.61, 0.5))
        assert (verdict.claim, verdict.network) == ("use", "a")

    def test_one_that_may_be_worth_it_leaves_it_open_wherever_it_stands(self) -> None:
        verdict = self.told(network_of("none", 0.5, 0.0), network_of("a", 0.4, 0.5, posterior_front=False))
        assert (verdict.claim, verdict.network) == ("undecided", "none")
        assert verdict.sentences[0].numbers["better"] == 0.5

    def test_no_se_may_be_the_best_itself(self) -> None:
        verdict = self.told(network_of("none", 0.5, 0.0))
        assert (verdict.claim, verdict.network) == ("undecided", "none"), "nothing else was trained"
