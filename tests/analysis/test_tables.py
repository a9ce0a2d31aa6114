"""Views of a study: tables with their columns, figures, and all of them again from the study alone."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import OBJECTIVE, findings, result_of, searched, trials_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from se_nas.analysis.summary import as_json, summarize
from se_nas.analysis.tables import best_row, trials_table
from se_nas.commands.results import report_again
from se_nas.core.costs import EXACT
from se_nas.core.errors import RunError
from se_nas.core.trial import Metric
from se_nas.report.figures import write_views
from se_nas.report.front_table import front_display
from se_nas.samplers.pareto import non_dominated
from se_nas.space.space import Space

CONTRACT = [
    "trial", "key", "state", "placement", "metric", "gflops", "macs", "params", "activations", "seed", "epochs",
    "seconds", "versions", "device", "commit",
]  # fmt: skip


class TestFront:
    @given(hnp.arrays(float, st.tuples(st.integers(0, 12), st.integers(1, 3)), elements=st.integers(0, 4).map(float)))
    def test_is_what_the_definition_says(self, values: np.ndarray) -> None:
        mask = non_dominated(values)
        for i, row in enumerate(values):
            dominated = any((other <= row).all() and (other < row).any() for other in values)
            assert mask[i] == (not dominated)
        assert mask.shape == (len(values),)
        assert mask.any() or not len(values)


class TestTables:
    def test_columns_are_a_contract(self, finished: Path) -> None:
        for name in ("trials.csv", "front.csv"):
            table = pd.read_csv(finished / name)
            assert [column for column in CONTRACT if column not in table.columns] == [], name
            complete = table[table["state"] == "complete"]
            assert complete[CONTRACT].drop(columns="commit").notna().all().all()
            for column in ("trial", "macs", "params", "activations", "seed", "epochs"):
                assert pd.api.types.is_integer_dtype(complete[column]), column
            assert complete["versions"].str.contains("torch=").all()
            assert (complete["gflops"] == complete["macs"] / 1e9).all()

    def test_an_empty_study_has_the_columns(self, tmp_path: Path) -> None:
        write_views(tmp_path, findings([]))
        assert [c for c in CONTRACT if c not in pd.read_csv(tmp_path / "trials.csv").columns] == []

    def test_every_trial_has_a_row_whatever_its_state(self) -> None:
        trials = trials_of((0.5, 10, "complete"), (0.0, 20, "failed"), (0.6, 30, "stopped"), (0.0, 40, "rejected"))
        table = trials_table(trials, OBJECTIVE)
        assert list(table["state"]) == ["complete", "failed", "stopped", "rejected"]
        assert table["metric"].isna().tolist() == [False, True, False, True]
        assert list(table["counts"]) == [True, False, True, False]

    def test_front_by_rising_cost_with_gains(self) -> None:
        trials = trials_of(
            (0.5, 10, "complete"), (0.7, 30, "complete"), (0.6, 20, "complete"), (0.55, 25, "complete"),
            (0.9, 5, "stopped"), (0.7, 40, "complete"),
        )  # fmt: skip
        front = findings(trials, OBJECTIVE).front
        assert list(front["trial"]) == [0, 2, 1]
        assert list(front["macs_added"]) == [0, 10, 20]
        np.testing.assert_allclose(front["metric_gain"], [0, 0.1, 0.2])
        best = best_row(front, OBJECTIVE)
        assert best is not None
        assert best.trial == 1

    def test_of_equal_trials_the_first_stays(self) -> None:
        trials = trials_of((0.5, 10, "complete"), (0.5, 10, "complete"))
        assert list(findings(trials, OBJECTIVE).front["trial"]) == [0]

    def test_a_metric_that_should_be_small(self) -> None:
        objective = replace(OBJECTIVE, direction="minimize")
        front = findings(
            trials_of((0.5, 10, "complete"), (0.7, 20, "complete"), (0.4, 30, "complete")), objective
        ).front
        assert list(front["trial"]) == [0, 2]
        best = best_row(front, objective)
        assert best is not None
        assert best.trial == 2

    def test_without_a_space_or_with_few_trials_there_is_no_posterior(self, space8: Space) -> None:
        trials = searched(space8, 5)
        for space in (None, space8):
            front = findings(trials, OBJECTIVE, space).front
            assert front["observed_front"].all()
            assert not front["posterior_front"].any()
            assert front[["mean", "lower", "upper", "p_front"]].isna().all().all()

    @pytest.mark.parametrize("direction", ["maximize", "minimize"])
    def test_posterior_beside_the_observed_front(self, space8: Space, direction: Any) -> None:
        sign = 1 if direction == "maximize" else -1
        objective = replace(OBJECTIVE, direction=direction)
        trials = searched(space8, 30, sign=sign)
        front = findings(trials, objective, space8).front
        believed = front[front["posterior_front"]]
        assert (np.diff(sign * believed["mean"]) > 0).all()
        assert (np.diff(believed["gflops"]) > 0).all()
        assert ((front["lower"] < front["mean"]) & (front["mean"] < front["upper"])).all()
        assert front["p_front"].between(0, 1).all()
        raw = findings(trials, objective).front
        assert list(front.loc[front["observed_front"], "trial"]) == list(raw["trial"])
        best = best_row(front, objective)
        assert best is not None
        assert best["mean"] == sign * (sign * findings(trials, objective, space8).complete["mean"]).max()
        assert best["placement"] != "none"

    def test_a_lucky_run_is_not_the_best(self, space8: Space) -> None:
        trials = searched(space8, 40, effect=0.01)
        first = space8.units[0].name
        lucky = next(i for i, t in enumerate(trials) if i and t.placement.choices[first].kind == "none")
        luckiest = max(t.metrics["val_accuracy"].value for t in trials) + 1e-4
        trials[lucky] = replace(trials[lucky], **result_of("complete", luckiest))
        front = findings(trials, OBJECTIVE, space8).front
        observed, best = best_row(findings(trials, OBJECTIVE).front, OBJECTIVE), best_row(front, OBJECTIVE)
        assert observed is not None
        assert best is not None
        assert observed["trial"] == lucky != best["trial"]

    def test_of_networks_that_cannot_be_told_apart_the_cheaper_one_is_recommended(self, space8: Space) -> None:
        trials = searched(space8, 30, effect=0.0)
        content = summarize(findings(trials, OBJECTIVE, space8), folder="x", budget=30, ended="e")
        assert [n.placement for n in content.front if n.recommended] == ["none"]
        assert content.gained[0].startswith("Best by the model estimate (30 trainings): ")
        if content.best is not None and content.best.placement != "none":
            assert content.gained[1].startswith("It is not distinguishable from the cheaper none (trial 0): ")
            assert content.recommendation == "Recommended so far (search only): none (trial 0)."
        json.dumps(as_json(content, findings(trials, OBJECTIVE, space8)))
        assert front_display(content, title="t").row_count >= len(content.front)

    def test_of_equal_means_the_cheapest_is_the_best(self) -> None:
        table = pd.DataFrame({"mean": [0.7, 0.7], "metric": [0.7, 0.9], "gflops": [1.0, 2.0], "trial": [0, 1]})
        best = best_row(table, OBJECTIVE)
        assert best is not None
        assert best.trial == 0

    def test_summary_without_a_complete_trial(self) -> None:
        content = summarize(findings(trials_of((0.0, 1, "failed")), OBJECTIVE), folder="x", budget=3, ended="e")
        assert content.best is None
        assert content.front == ()
        assert content.failed == 1
        assert content.gained == ("No training is complete yet.",)

    def test_summary_says_what_was_gained(self) -> None:
        trials = trials_of((0.5, 100, "complete"), (0.75, 110, "complete"))
        content = summarize(findings(trials, OBJECTIVE), folder="x", budget=3, ended="e")
        assert content.best is not None
        assert content.best.placement == "p1"
        assert "Compared with no SE (50.00 %): +25.00 points, params +0.909 %, MACs +10.000 %." in content.gained
        assert content.gained[-1].startswith("Each number is a single training")

    def test_a_metric_that_is_no_share_has_its_own_unit(self) -> None:
        trials = trials_of((1.5, 100, "complete"), (1.25, 110, "complete"))
        loss = {OBJECTIVE.metric: Metric(value=0.0, direction="minimize", unit="nats")}
        trials = [
            replace(t, metrics={n: replace(m, value=t.metrics[n].value) for n, m in loss.items()}) for t in trials
        ]
        content = summarize(findings(trials, replace(OBJECTIVE, direction="minimize")), folder="x", budget=3, ended="e")
        assert "Compared with no SE (1.5 nats): -0.25 nats, params +0.909 %, MACs +10.000 %." in content.gained


class TestFigures:
    def test_are_images(self, finished: Path) -> None:
        with Image.open(finished / "front.png") as image:
            image.load()
            assert image.size[0] > 600
            assert len(image.convert("RGB").getcolors(10**7)) > 50
        root = ElementTree.parse(finished / "front.svg").getroot()
        assert root.tag.endswith("svg")

    @pytest.mark.parametrize("cost", EXACT)
    def test_over_every_cost(self, tmp_path: Path, cost: str) -> None:
        trials = trials_of((0.5, 10, "complete"), (0.7, 30, "complete"))
        files = write_views(tmp_path, findings(trials, replace(OBJECTIVE, cost=cost)))
        assert [f.name for f in files] == ["trials.csv", "curves.csv", "front.csv", "front.png", "front.svg"]
        assert all(f.stat().st_size for f in files)
        assert sorted(f.name for f in tmp_path.iterdir()) == sorted(f.name for f in files)


class TestAgain:
    def test_from_the_study_alone(self, finished: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        run.mkdir()
        for file in finished.glob("study.db*"):
            shutil.copy(file, run)
        content = report_again(run).summary
        assert content.trained == 8
        assert content.ended == "8 of 20 trainings are there"
        for name in ("trials.csv", "curves.csv", "front.csv", "config.yaml"):
            assert (run / name).read_text() == (finished / name).read_text(), name
        assert (run / "front.png").is_file()
        assert (run / "front.svg").is_file()

    def test_the_best_that_has_weights_is_exported_and_named(self, finished: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        shutil.copytree(finished, run)
        best = report_again(run).recommended
        assert best is not None
        assert json.loads((run / "best" / "placement.json").read_text())["trial"] == best.trial
        (run / "weights" / f"{best.trial}.safetensors").unlink()
        content = report_again(run).summary
        assert content.recommended == best
        exported = json.loads((run / "best" / "placement.json").read_text())["trial"]
        assert exported != best.trial
        assert content.gained[-1].startswith(
            f"The weights of trial {best.trial}, which is recommended, were dropped while others led: best/ is trial "
            f"{exported}, "
        )

    def test_the_table_of_a_finished_search_has_the_posterior(self, finished: Path) -> None:
        front = pd.read_csv(finished / "front.csv")
        assert front[["mean", "lower", "upper", "p_front"]].notna().all().all()
        assert front["posterior_front"].any()
        assert front["observed_front"].any()
        best = report_again(finished).recommended
        assert best is not None
        assert json.loads((finished / "best" / "placement.json").read_text())["trial"] == best.trial

    def test_of_no_run_folder(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match=r"is not a run folder: it has no study\.db"):
            report_again(tmp_path)

    def test_of_a_storage_without_a_search(self, tmp_path: Path) -> None:
        import optuna

        optuna.create_study(study_name="other", storage=f"sqlite:///{tmp_path / 'study.db'}")
        with pytest.raises(RunError, match="has no search in it"):
            report_again(tmp_path)
