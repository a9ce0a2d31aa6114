"""Better, no relevant difference, worse: the same three numbers wherever a person reads them."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import OBJECTIVE, findings, reading_of, searched
from rich.console import Console

from se_nas.analysis.effects import EVERYWHERE
from se_nas.analysis.findings import Findings
from se_nas.analysis.summary import as_json, summarize
from se_nas.commands.results import SearchResult
from se_nas.core.words import percents
from se_nas.report.figures import paper_effects
from se_nas.report.front_table import front_display
from se_nas.report.page import render
from se_nas.report.run_page import run_page
from se_nas.samplers import posterior
from se_nas.space.space import Space

CHANCES = ["p_better", "p_same", "p_worse"]
CELL = re.compile(r"(\d+) / (\d+) / (\d+) %")


@pytest.fixture(params=["maximize", "minimize"])
def found(request: pytest.FixtureRequest, space8: Space) -> Findings:
    """A search with a gain of 0.4 points in the first stage, the noise 0.5."""
    objective = replace(OBJECTIVE, direction=request.param)
    sign = 1 if request.param == "maximize" else -1
    return findings(searched(space8, 24, sign=sign, effect=0.004), objective, space8)


def test_columns_are_the_posteriors_own_by_sampling(found: Findings) -> None:
    told = found.told
    assert told is not None
    base = next(i for i, t in enumerate(told.trials) if t.role == "baseline")
    weights = told.posterior.coefficient_samples(size=100_000, rng=np.random.default_rng(0))
    phi = told.posterior.features(told.codes)
    draws = weights @ (phi - phi[base]).T
    table = found.complete.set_index("trial").loc[[t.number for t in told.trials]]
    for name, share in zip(
        CHANCES, [draws > found.margin, np.abs(draws) <= found.margin, draws < -found.margin], strict=True
    ):
        np.testing.assert_allclose(table[name], share.mean(axis=0), atol=0.006)
    np.testing.assert_allclose(table[CHANCES].sum(axis=1), 1.0, atol=1e-12)
    assert table["p_better"].max() > 0.4 > table["p_worse"].max(), "the sign is that of the metric's direction"


def test_effects_are_the_posteriors_own_by_sampling(found: Findings) -> None:
    """The contrast of one reduction in all stages needs no averaging: it is that of two placements."""
    told, effects = found.told, found.effects
    assert told is not None
    assert effects is not None
    codes = np.array([[told.levels.meanings[0].index(16.0)] * 3, [0, 0, 0]])
    phi = told.posterior.features(codes)
    draws = told.posterior.coefficient_samples(size=100_000, rng=np.random.default_rng(1)) @ (phi[0] - phi[1])
    row = effects[(effects["decision"] == EVERYWHERE) & (effects["level"] == "16")].iloc[0]
    assert row["p_better"] == pytest.approx((draws > found.margin).mean(), abs=0.006)
    assert row["p_worse"] == pytest.approx((draws < -found.margin).mean(), abs=0.006)
    assert row[CHANCES].sum() == pytest.approx(1.0)
    ends = np.sort(told.sign * np.quantile(draws, [0.05, 0.95]))
    assert [row["lower"], row["upper"]] == pytest.approx(list(ends), abs=1e-4)


def test_a_larger_margin_leaves_less_that_is_worth_it(found: Findings) -> None:
    tables = [replace(found, asked=asked).complete for asked in (0.1, 0.3, 1.0)]
    better = [table["p_better"].to_numpy() for table in tables]
    assert (better[0] >= better[1]).all()
    assert (better[1] >= better[2]).all()
    assert better[0].max() > better[2].max() + 0.1
    np.testing.assert_allclose(tables[1]["p_better"], found.complete["p_better"])


def test_wherever_they_are_shown_they_add_up(found: Findings, tmp_path: Path) -> None:
    summary = summarize(found, folder="runs/x", budget=24, ended="e")
    rows = {int(row["trial"]): row for row in as_json(summary, found)["front"]}
    assert all(sum(row[name] for name in CHANCES) == pytest.approx(1.0) for row in rows.values())
    page = render(run_page(found, summary, reading_of(found).facts))
    terminal = io.StringIO()
    Console(file=terminal, width=200).print(front_display(summary, title="t"))
    notebook = SearchResult(folder=tmp_path, summary=summary, found=found)._repr_html_()
    assert found.effects is not None
    paper = paper_effects(found.effects, found.unit).to_string()
    shown = [n for n in summary.front if n.role != "baseline" and n.posterior_front]
    for text in (page, terminal.getvalue(), notebook, paper):
        cells = [tuple(map(int, cell)) for cell in CELL.findall(unescape(text))]
        assert cells, text
        assert all(sum(cell) == 100 for cell in cells)
        if text is not paper:
            assert {percents(*(rows[n.trial][name] for name in CHANCES)) for n in shown} <= set(cells)
            assert "of gaining over 0.30 points against no SE, of differing by less, of losing more" in text
    store: dict[str, Any] = json.loads(re.findall(r'application/json"[^>]*>(.*?)</script>', page, re.DOTALL)[0])
    columns = store["columns"]
    assert {a + b + c for a, b, c in zip(columns["better"], columns["same"], columns["worse"], strict=True)} == {100}
    hover = next(t["hovertemplate"] for t in store["charts"]["front"]["views"][0]["traces"])
    assert "vs. no SE: better %{customdata[6]} %, no relevant difference %{customdata[7]} %" in hover
    assert store["charts"]["front"]["views"][0]["traces"][0]["columns"]["customdata"][6:9] == [
        "better", "same", "worse",
    ]  # fmt: skip


def test_an_end_at_the_point_mass_is_named_wherever_it_is_shown(
    found: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where "no effect" is likely enough intervals end at none, which no number may hide."""
    assert found.effects is not None
    effects = found.effects.assign(lower=0.0)
    assert set(paper_effects(effects, "share")["90 % interval"].str.startswith("no effect")) == {True}
    monkeypatch.setattr(posterior, "NO_EFFECT_WEIGHT", 0.9)
    without = findings(searched(found.space, 30, effect=0.0), OBJECTIVE, found.space)  # type: ignore[arg-type]
    ends = without.complete[["gain_low", "gain_high"]].to_numpy()
    assert (ends == 0).any(axis=1).sum() > 1, "more than no SE itself"


def test_without_no_se_among_the_trials_nothing_is_compared(space8: Space) -> None:
    found = findings([replace(t, role="") for t in searched(space8, 20)], OBJECTIVE, space8)
    assert found.complete[[*CHANCES, "gain"]].isna().all().all()
    summary = summarize(found, folder="x", budget=20, ended="e")
    assert summary.likeliest is None
    terminal = io.StringIO()
    Console(file=terminal, width=200).print(front_display(summary, title="t"))
    assert "worse" not in terminal.getvalue()
