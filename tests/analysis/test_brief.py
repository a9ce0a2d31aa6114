"""The verdict in two sentences: for each claim what to do, and how sure that is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers import OBJECTIVE, findings, searched, trials_of
from test_verdict import against, confirmation

from se_nas.analysis.brief import TOO_SHORT, in_brief
from se_nas.analysis.confirmation import Confirmation, Sentence
from se_nas.analysis.summary import Summary, summarize
from se_nas.analysis.verdict import final_verdict
from se_nas.space.space import Space


def confirmed(found: Confirmation, *, margin: float = 0.003) -> tuple[Summary, Confirmation]:
    judged = replace(found, margin=margin)
    judged = replace(judged, verdict=final_verdict(judged, run="runs/x"))
    summary = summarize(findings(trials_of((0.5, 10, "complete"))), folder="runs/x", confirmation=judged)
    return summary, judged


def test_a_network_that_beats_no_se_is_named_with_gain_and_price() -> None:
    brief = in_brief(*confirmed(confirmation((0.6, 1100, against(0.02, 0.005, beats=True)))))
    assert brief[0].startswith("Use ")
    assert brief[0].endswith(": +2.00 points vs. no SE for 10 % more parameters.")
    assert brief[1] == "Confirmed with 3 fresh seeds on 200 test images, which had no part in any choice."


def test_of_a_loss_more_is_better_here() -> None:
    less = confirmation((0.4, 1100, against(-0.02, 0.005, beats=True)), direction="minimize")
    first, _ = in_brief(*confirmed(less))
    assert "+2.00 points vs. no SE (less is better; + is better here)" in first


def test_not_worth_it_says_by_what_margin() -> None:
    first, second = in_brief(*confirmed(confirmation((0.6, 1100, against(0.0, 0.01, beats=False))), margin=0.02))
    assert first.startswith("Ship the plain backbone: no placement gains 2.00 points or more")
    assert "3 fresh seeds" in second


def test_undecided_says_what_would_decide() -> None:
    seeds = replace(against(0.006, 0.02, beats=False), error=0.012, image_error=0.001)
    known = replace(confirmation((0.6, 1100, seeds)), seed_seconds=60.0)
    first, second = in_brief(*confirmed(known))
    assert first.startswith("Ship the plain backbone for now")
    assert second.startswith("About ")
    assert "more minutes of training" in second
    images = replace(seeds, image_error=0.0119)
    assert in_brief(*confirmed(confirmation((0.6, 1100, images))))[1].startswith("More seeds would not decide it")


def test_a_search_only_says_what_it_looks_like(space8: Space) -> None:
    found = findings(searched(space8, 40), OBJECTIVE, space8)
    summary = summarize(found, folder="/home/me/runs/x", budget=40)
    assert summary.verdict.claim == "use"
    first, second = in_brief(summary)
    assert first.startswith("SE looks worth it: ")
    assert second.endswith("confirm it before you report or ship it: se-nas confirm x.")
    assert "the best of many runs is optimistic" in second
    nothing = summarize(findings(searched(space8, 40, effect=0.0), OBJECTIVE, space8), folder="x", budget=40)
    assert nothing.verdict.claim in ("without", "undecided")
    assert in_brief(nothing)[0].startswith("Keep the plain backbone for now: no placement ")


def test_few_trainings_recommend_nothing() -> None:
    summary = summarize(findings(trials_of((0.5, 10, "complete"), (0.6, 20, "complete"))), folder="x", budget=50)
    first, _ = in_brief(summary)
    assert first == "It is too early to say whether SE helps here: 2 of 50 trainings complete."


@pytest.mark.parametrize("claim", ["use", "without", "undecided"])
def test_trainings_that_say_little_are_a_warning(claim: str, space8: Space) -> None:
    summary = summarize(findings(searched(space8, 40), OBJECTIVE, space8), folder="x", budget=40)
    warned = replace(summary.verdict, claim=claim, cautions=(Sentence(text="Undertrained"),))
    assert in_brief(replace(summary, verdict=warned))[1] == TOO_SHORT
