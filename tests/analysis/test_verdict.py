"""What a confirm and a search say: which network, with which numbers, in which words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_decisions import networks_of

from se_nas.analysis.confirmation import Confirmation, Difference, Verdict
from se_nas.analysis.summary import LIKELY, Network, Summary, provisional_verdict
from se_nas.analysis.verdict import final_verdict
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
    def test_without_se_names_what_the_best_of_all_may_still_gain(self, direction: Direction) -> None:
        sign = 1.0 if direction == "maximize" else -1.0
        found = confirmation(
            (0.6, 1100, against(sign * 0.01, 0.02, beats=False, p=0.3)),
            (0.55, 1200, against(-sign * 0.01, 0.05, beats=False, p=0.6)), direction=direction,
        )  # fmt: skip
        verdict = final_verdict(found)
        assert (verdict.claim, verdict.network) == ("without", "0")
        assert verdict.sentences[1].numbers == pytest.approx({"gain": 0.01, "lower": -0.03, "upper": 0.05, "p": 0.3})
        assert verdict.sentences[2].numbers == pytest.approx({"ceiling": 0.09, "chance": 0.05})

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
        assert "10 % less parameters" in cheaper.sentences[0].text

    @pytest.mark.parametrize(
        ("difference", "words"),
        [
            (against(0.05, 0.01, beats=True), "beats it"),
            (against(0.05, 0.01, beats=False), "is not proven"),
            (against(-0.05, 0.01, beats=False), "is not proven"),
            (against(0.01, 0.02, beats=False), "cannot be told apart"),
            (against(-0.01, 0.02, beats=False), "cannot be told apart"),
        ],
    )
    def test_against_se_everywhere(self, difference: Difference, words: str) -> None:
        found = confirmation((0.6, 1100, against(0.05, 0.01, beats=True)), reference=difference)
        sentence = final_verdict(found).sentences[2]
        assert sentence.text.endswith(f": {words}.")
        assert sentence.numbers["gain"] == difference.mean
        assert (sentence.numbers["lower"], sentence.numbers["upper"]) == difference.interval

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
        assert "too good by 2.00 points" in sentence.text


def network_of(key: str, mean: float, p_gain: float, **more: Any) -> Network:
    """A network of a search's summary."""
    facts: dict[str, Any] = {
        "trial": 0, "role": "", "metric": 0.5, "key": key, "placement": f"stage1={key}", "mean": mean,
        "gain": mean - 0.5, "gain_low": mean - 0.6, "gain_high": mean - 0.4, "p_gain": p_gain,
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
        assert verdict.sentences[0].numbers["chance"] == 0.99

    def test_smaller_is_better_where_the_metric_is_minimised(self) -> None:
        verdict = self.told(network_of("a", 0.4, 0.99), network_of("b", 0.3, 0.99), direction="minimize")
        assert (verdict.claim, verdict.network) == ("use", "b")
        assert verdict.sentences[0].numbers["gain"] == pytest.approx(0.2)
        assert verdict.sentences[0].numbers["lower"] == pytest.approx(0.1)

    @pytest.mark.parametrize(("chance", "claim", "network"), [(LIKELY, "use", "a"), (LIKELY - 0.01, "without", "none")])
    def test_needs_a_chance_of_nine_in_ten(self, chance: float, claim: str, network: str) -> None:
        verdict = self.told(network_of("none", 0.5, 0.0), network_of("a", 0.6, chance))
        assert (verdict.claim, verdict.network) == (claim, network)

    def test_no_se_may_be_the_best_itself(self) -> None:
        verdict = self.told(network_of("none", 0.5, 1.0))
        assert (verdict.claim, verdict.network) == ("without", "none")
