"""The report as a page: what it holds, that nothing a user named runs in it, and how it behaves in a browser."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browsers import chromium
from helpers import INFO, OBJECTIVE, findings, searched, tiny, trial, trials_of

from se_nas.analysis.effects import ANY, EVERYWHERE
from se_nas.analysis.summary import summarize
from se_nas.cli import main, parse
from se_nas.commands.compare import compare
from se_nas.commands.report import watch
from se_nas.commands.results import report_again
from se_nas.core.config import SearchConfig, as_command
from se_nas.core.errors import ConfigError, RunError
from se_nas.core.overrides import configured
from se_nas.core.placement import Placement
from se_nas.core.trial import Metric as Value
from se_nas.core.trial import Recipe, Target, Trial
from se_nas.engine import storage
from se_nas.engine.run_folder import RunFolder
from se_nas.report.charts import hypervolume_progress
from se_nas.report.figures import write_paper
from se_nas.report.metric import Metric
from se_nas.report.page import DARK, LIGHT, Page, Section, render, write_page
from se_nas.report.reading import RunFacts
from se_nas.report.run_page import run_page
from se_nas.report.view import View
from se_nas.samplers.pareto import hypervolume
from se_nas.space.space import Space
from se_nas.training.loggers import check_logs, log_names

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"


def page_of(trials: list[Trial], space: Space, *, refresh: float | None = None, evil: bool = False) -> Page:
    found = findings(trials, OBJECTIVE, space)
    summary = summarize(found, folder="runs/x", budget=50, ended="the budget is spent")
    config = SearchConfig(backbone=Target(target=f"pkg:{EVIL}"), data=Target(target=f"folder:{EVIL}")) if evil else None
    data = replace(INFO, classes=(EVIL, "b")) if evil else INFO
    facts = RunFacts(folder=Path("runs/x"), config=config or SearchConfig(), data=data, times=("", ""))
    return run_page(found, summary, facts, refresh=refresh)


class Outline(HTMLParser):
    """Tags, and the text of scripts that are data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data = ""
        self._in_data = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_data = tag == "script" and dict(attrs).get("type") == "application/json"

    def handle_data(self, data: str) -> None:
        if self._in_data:
            self.data += data
            self._in_data = False


class TestPage:
    def test_has_every_part_and_needs_no_other_file(self, space8: Space) -> None:
        text = render(page_of(searched(space8, 30), space8))
        outline = Outline(text)
        headings = [attrs["id"] for tag, attrs in outline.tags if tag == "section"]
        assert headings == [
            "verdict", "network", "front", "rules", "classes", "effects", "runs", "progress", "failures", "trials",
            "run",
        ]  # fmt: skip
        links = [attrs.get(name) for _, attrs in outline.tags for name in ("src", "href") if attrs.get(name)]
        assert all(str(link).startswith("#") for link in links)
        assert ("html", {"lang": "en"}) in outline.tags
        assert "se-nas search" in text
        assert "http-equiv" in text
        charts = json.loads(outline.data)["charts"]
        assert len(charts["front"]["views"]) >= 2  # a choice of costs

    def test_every_figure_is_valid_plotly(self, space8: Space) -> None:
        from plotly.graph_objects import Figure

        data = json.loads(Outline(render(page_of(searched(space8, 30), space8))).data)
        for chart in data["charts"].values():
            for view in chart["views"]:
                traces = [{k: v for k, v in t.items() if k not in ("columns", "rows")} for t in view["traces"]]
                plain = json.loads(re.sub(r'"@(\w+)"', lambda m: json.dumps(LIGHT[m[1]]), json.dumps(traces)))
                layout = json.loads(re.sub(r'"@(\w+)"', lambda m: json.dumps(LIGHT[m[1]]), json.dumps(view["layout"])))
                Figure(data=plain, layout=layout)
                for t in view["traces"]:
                    for source in t.get("columns", {}).values():
                        for part in source if isinstance(source, list) else [source]:
                            assert (part if isinstance(part, str) else part["name"]) in data["columns"]

    def test_nothing_that_a_user_named_is_markup(self, space8: Space) -> None:
        trials = searched(space8, 12)
        trials[3] = replace(trials[3], placement=replace(trials[3].placement, label=EVIL), device=EVIL)
        trials.append(trial(Placement(choices={}, label=EVIL), 99, state="failed", reason=EVIL))
        text = render(page_of(trials, space8, evil=True))
        assert "<img" not in text.replace("&lt;img", "")
        outline = Outline(text)
        assert [tag for tag, _ in outline.tags].count("script") == 3
        assert EVIL.replace(",", ", ") in json.loads(outline.data)["columns"]["placement"]

    @pytest.mark.parametrize("states", [[], ["failed"], ["failed", "rejected", "stopped"], ["running"], ["complete"]])
    def test_few_or_no_finished_trials(self, states: list[str], space8: Space) -> None:
        trials = trials_of(*((0.5, 10 + i, state) for i, state in enumerate(states)))
        text = render(page_of(trials, space8))
        if "complete" not in states:
            assert "too few to say whether SE helps here" in text
        if "failed" in states:
            assert "failed" in text

    @pytest.mark.parametrize("trials", [1, 4])
    def test_nothing_is_recommended_while_nothing_can_be_said(self, trials: int, space8: Space) -> None:
        page = page_of(searched(space8, trials), space8)
        assert [name for name, _, _ in page.figures] == ["Number of trainings"]
        assert "network" not in [section.id for section in page.sections]
        front = next(section for section in page.sections if section.id == "front")
        assert front.chart is not None
        assert "recommended" not in [trace["name"] for view in front.chart.views for trace in view.traces]
        assert "ecommended" not in render(page).split("<script", 1)[0]
        assert page.brief[0] == f"It is too early to say whether SE helps here: {trials} of 50 trainings complete."

    def test_a_loss_is_no_percentage(self) -> None:
        objective = replace(OBJECTIVE, metric="val_loss", direction="minimize")
        values = {"val_loss": Value(value=0.5, direction="minimize", unit="nats")}
        metric = Metric(findings([trial(Placement(choices={}), 0, state="complete", metrics=values)], objective))
        assert (metric.head, metric.value(0.5), metric.gain(-0.1), metric.sign) == (
            "val_loss (nats)",
            "0.5000",
            "-0.1000",
            -1,
        )

    def test_text_has_enough_contrast_in_both_themes(self) -> None:
        def light(color: str) -> float:
            parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
            linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
            return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

        def contrast(a: str, b: str) -> float:
            high, low = sorted((light(a), light(b)), reverse=True)
            return (high + 0.05) / (low + 0.05)

        for theme in (LIGHT, DARK):
            for name in ("ink", "soft", "link"):
                for ground in ("paper", "panel"):
                    assert contrast(theme[name], theme[ground]) >= 4.5, (name, ground)
            for name in ("seen", "best", "mark", "edge", "confirmed", *(f"series{i}" for i in range(6))):
                assert contrast(theme[name], theme["paper"]) >= 3, name

    def test_the_command_gives_the_configuration_again(self) -> None:
        config = SearchConfig(
            backbone=Target(target="resnet8", args={"width": 8, "flag": True}), data=Target(target="folder:/a b/c"),
            train=Recipe(epochs=3, schedule="cosine"), measure=["latency"], budget=7, seed=3, space="my space.yaml",
            storage="sqlite:///x.db",
        )  # fmt: skip
        _, command, *words = as_command(config, out="runs/again")
        given = parse([command, *words])["search"].as_dict()
        again = configured(None, {name: given[name] for name in SearchConfig.__dataclass_fields__})
        assert again == replace(config, out="runs/again", storage=None)


class TestEffects:
    def test_find_a_true_effect_and_no_other(self, space8: Space) -> None:
        table = findings(searched(space8, 64, effect=0.03), OBJECTIVE, space8).effects
        assert table is not None
        rows = table.set_index(["decision", "level"])
        first, *others = (d.name for d in space8.decisions)
        assert rows.loc[(first, ANY), "lower"] < 0.03 < rows.loc[(first, ANY), "upper"]
        assert rows.loc[(first, ANY), "lower"] > 0.02
        for name in others:
            assert rows.loc[(name, ANY), "lower"] < 0 < rows.loc[(name, ANY), "upper"]
        assert rows.loc[(EVERYWHERE, "16"), "trained"] == 1
        units = {unit.stage: unit.sites[0].channels for unit in space8.units}
        assert rows.loc[(first, "16"), "params_added"] == 2 * units[first] * (units[first] // 16)

    def test_averages_are_those_of_all_placements(self, space8: Space) -> None:

        trials = searched(space8, 40)
        found = findings(trials, OBJECTIVE, space8)
        told, table = found.told, found.effects
        assert told is not None
        assert table is not None
        codes = told.levels.all()
        mean = told.posterior.predict(codes)[0]
        for j, name in enumerate(told.levels.names):
            row = table[(table["decision"] == name.rpartition(".")[0]) & (table["level"] == "16")].iloc[0]
            level = space8.parameters[name].index(16)
            expected = mean[codes[:, j] == level].mean() - mean[codes[:, j] == 0].mean()
            assert row["effect"] == pytest.approx(expected, abs=1e-10)
            assert row["lower"] <= row["effect"] <= row["upper"]

    def test_smaller_is_better_turns_the_sign(self, space8: Space) -> None:
        down = replace(OBJECTIVE, direction="minimize")
        table = findings(searched(space8, 64, sign=-1), down, space8).effects
        assert table is not None
        row = table[table["level"] == ANY].iloc[0]
        assert row["upper"] < 0
        assert row["p_better"] > 0.99

    def test_too_few_trials_say_nothing(self, space8: Space) -> None:
        assert findings(searched(space8, 4), OBJECTIVE, space8).effects is None


def test_hypervolume_of_every_prefix() -> None:
    losses = np.random.default_rng(0).random((40, 2))
    progress = hypervolume_progress(losses, np.ones(2))
    expected = [hypervolume(losses[: n + 1], np.ones(2)) for n in range(40)]
    np.testing.assert_allclose(progress, expected)


def test_figures_and_tables_for_papers(tmp_path: Path, space8: Space) -> None:
    files = write_paper(tmp_path, findings(searched(space8, 20), OBJECTIVE, space8))
    names = {
        f"{stem}.{suffix}" for stem in ("front", "effects") for suffix in ("png", "svg", "pdf", "csv", "md", "tex")
    }
    assert {file.name for file in files} == names
    assert (tmp_path / "front.pdf").read_bytes()[:5] == b"%PDF-"
    assert "\\toprule" in (tmp_path / "front.tex").read_text()
    assert "\\_" in (tmp_path / "front.tex").read_text()
    rows = pd.read_csv(tmp_path / "effects.csv")
    assert len((tmp_path / "effects.md").read_text().splitlines()) == len(rows) + 2
    assert write_paper(tmp_path / "none", findings([], OBJECTIVE, space8)) == []


def _record(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the stored record of a trial."""
    with contextlib.closing(sqlite3.connect(run / "study.db")) as study, study:
        rows = study.execute("SELECT trial_id, value_json FROM trial_user_attributes WHERE key = 'record'")
        number, text = rows.fetchone()
        changed = change(json.loads(text))
        study.execute(
            "UPDATE trial_user_attributes SET value_json = ? WHERE trial_id = ? AND key = 'record'",
            (changed if isinstance(changed, str) else json.dumps(changed), number),
        )


def _facts(run: Path, facts: object) -> None:
    with contextlib.closing(sqlite3.connect(run / "study.db")) as study, study:
        study.execute("UPDATE study_user_attributes SET value_json = ? WHERE key = 'facts'", (json.dumps(facts),))


class TestCommands:
    def test_a_search_leaves_a_page_and_report_makes_it_again(self, finished: Path, tmp_path: Path) -> None:
        assert "All trials" in (finished / "report.html").read_text()
        folder = tmp_path / "copy"
        shutil.copytree(finished, folder)
        (folder / "report.html").unlink()
        assert main(["report", str(folder), "--figures", str(tmp_path / "figures")]) == 0
        assert (folder / "report.html").is_file()
        assert (tmp_path / "figures" / "front.tex").is_file()

    def test_a_running_search_is_only_looked_at(self, finished: Path, tmp_path: Path) -> None:
        folder = tmp_path / "copy"
        shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("best", "*.csv", "report.html"))
        run = RunFolder(folder)
        run.lock()
        try:
            assert RunFolder(folder).busy
            report_again(folder)
        finally:
            run.unlock()
        assert (folder / "report.html").is_file()
        assert not (folder / "trials.csv").exists()
        assert not RunFolder(folder).busy

    def test_watch_follows_a_run_to_its_end(self, finished: Path, tmp_path: Path) -> None:
        folder = tmp_path / "copy"
        shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("report.html"))
        holder = subprocess.Popen(
            [sys.executable, "-c",
             "import sys, time, filelock\nlock = filelock.FileLock(sys.argv[1])\nlock.acquire()\n"
             "from pathlib import Path\npage = Path(sys.argv[2])\nprint('held', flush=True)\n"
             "while not page.exists(): time.sleep(0.02)\n"
             "print('live' if 'id=\"pause\"' in page.read_text() else 'dead', flush=True)",
             str(folder / "driver.lock"), str(folder / "report.html")],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        content = watch(folder, every=0.05, view=View(quiet=True)).summary
        assert holder.stdout.readline() == "live\n"
        holder.stdout.close()
        assert holder.wait(30) == 0
        assert content.trained == 8
        assert 'id="pause"' not in (folder / "report.html").read_text()

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["report", "nowhere", "--watch"], "is not a run folder"),
            (["report", "nowhere", "--every", "0"], "every is 0"),
            (["compare", "nowhere"], "one run cannot be compared"),
            (["compare", "nowhere", "./nowhere"], "is given twice"),
            (["search", "--logs", "cvs", "--out", "OUT"], "did you mean 'csv'"),
        ],
    )
    def test_mistakes(
        self, arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        monkeypatch.chdir(tmp_path)
        assert main(arguments) == 2
        assert said in capsys.readouterr().err

    def test_broken_study(self, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shutil.copytree(finished, tmp_path / "run")
        (tmp_path / "run" / "study.db").write_bytes(b"this is no database at all" * 100)
        for name in ("study.db-wal", "study.db-shm"):
            (tmp_path / "run" / name).unlink(missing_ok=True)
        assert main(["report", str(tmp_path / "run")]) == 2
        assert "cannot use the study storage" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda run: _record(run, lambda record: "{broken"), "cannot use the study storage"),
            (lambda run: _record(run, lambda record: {**record, "schema": 99}), "schema version 99 is newer"),
            (lambda run: _record(run, lambda record: {**record, "metrics": {}}), "has no metric 'val_accuracy'"),
            (lambda run: _record(run, lambda record: {**record, "costs": {}}), "has no cost 'gflops'"),
            (lambda run: _facts(run, {}), "was not made by se-nas search"),
            (lambda run: _facts(run, {"space": {"spec": {"stages": 3}}}), "SpaceSpec"),
            (lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe"), "not UTF-8 text"),
        ],
    )
    @pytest.mark.parametrize("command", [["report", "RUN"], ["compare", "RUN", "FINISHED"]])
    def test_damaged_run(
        self, command: list[str], change: Callable[[Path], object], said: str, finished: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        monkeypatch.chdir(tmp_path)
        shutil.copytree(finished, tmp_path / "run")
        change(tmp_path / "run")
        places = {"RUN": str(tmp_path / "run"), "FINISHED": str(finished)}
        assert main([places.get(word, word) for word in command]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert "Traceback" not in error

    def test_a_view_that_cannot_be_written(
        self, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copytree(finished, tmp_path / "run")
        (tmp_path / "run" / "report.html").unlink()
        (tmp_path / "run" / "report.html").mkdir()
        (tmp_path / "file").touch()
        assert main(["report", str(tmp_path / "run")]) == 2
        assert "cannot write to" in capsys.readouterr().err
        assert main(["compare", str(tmp_path / "run"), str(finished), "--to", str(tmp_path / "file")]) == 2
        assert "cannot write to" in capsys.readouterr().err

    def test_a_locked_study(
        self, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(storage, "LOCK_WAIT", 0.1)
        shutil.copytree(finished, tmp_path / "run")
        with contextlib.closing(sqlite3.connect(tmp_path / "run" / "study.db", isolation_level=None)) as other:
            other.execute("PRAGMA locking_mode=EXCLUSIVE")
            other.execute("BEGIN EXCLUSIVE")
            other.execute("UPDATE version_info SET library_version = library_version")
            assert main(["report", str(tmp_path / "run")]) == 2
        assert "another program holds the file" in capsys.readouterr().err
        assert main(["report", str(tmp_path / "run")]) == 0

    def test_half_deleted_run(self, finished: Path, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        for file in finished.glob("study.db*"):  # with what is not yet in the file itself
            shutil.copy(file, tmp_path / "run")
        assert report_again(tmp_path / "run").summary.trained == 8
        assert (tmp_path / "run" / "report.html").is_file()

    def test_logs_of_each_training(self, tmp_path: Path) -> None:
        from se_nas.commands.search import search

        folder = search(tiny(tmp_path, budget=1, logs="csv")).folder
        table = pd.read_csv(folder / "logs" / "csv" / "trial-0" / "metrics.csv")
        assert "val_accuracy" in table
        assert "placement" in (folder / "logs" / "csv" / "trial-0" / "hparams.yaml").read_text()

    def test_tensorboard_shows_curve_placement_and_metric(self, tmp_path: Path) -> None:
        events = pytest.importorskip(
            "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
        )
        from tensorboard.plugins.hparams import metadata

        from se_nas.commands.search import search

        folder = search(tiny(tmp_path, budget=1, logs="tensorboard")).folder
        log = events.EventAccumulator(str(folder / "logs" / "tensorboard" / "trial-0")).Reload()
        best = pd.read_csv(folder / "trials.csv")
        assert log.Scalars("val_accuracy")[-1].value == pytest.approx(best["metric"][0])
        kept = log.PluginTagToContent(metadata.PLUGIN_NAME)
        session = metadata.parse_session_start_info_plugin_data(kept[metadata.SESSION_START_INFO_TAG])
        assert session.hparams["placement"].string_value == "none"
        shown = metadata.parse_experiment_plugin_data(kept[metadata.EXPERIMENT_TAG])
        assert [info.name.tag for info in shown.metric_infos] == ["val_accuracy"]

    def test_a_missing_package_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match="needs the package 'tensorboard'") as error:
            check_logs(log_names("csv, tensorboard"))
        assert error.value.hint == "pip install 'se-nas[tensorboard]'"


class TestCompare:
    def test_two_runs_with_one_reference_point(self, finished: Path, tmp_path: Path) -> None:
        other = tmp_path / "other" / finished.name
        shutil.copytree(finished, other)
        content = compare([finished, other], tmp_path / "compare")
        first, second = content.runs
        assert first.run != second.run
        assert first.hypervolume == pytest.approx(second.hypervolume)
        assert 0 <= first.hypervolume <= 1
        assert not any("different data" in note for note in content.notes)
        for suffix in ("html", "png", "svg", "pdf", "csv", "md", "tex"):
            assert (tmp_path / "compare" / f"compare.{suffix}").stat().st_size > 0
        with pytest.raises(RunError, match="tokens"):
            compare([finished, other], tmp_path / "compare", cost="tokens")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory, units8: Any) -> Path:
    from se_nas.space.spec import read_space

    space = Space(read_space("stagewise"), units8)
    trials = searched(space, 40)
    trials[5] = replace(trials[5], placement=replace(trials[5].placement, label=EVIL))
    trials.append(trial(Placement(choices={}, label=EVIL), 99, state="failed", reason=EVIL))
    return write_page(page_of(trials, space, evil=True), tmp_path_factory.mktemp("page") / "report.html")


class TestInABrowser:
    def open(self, browser: Any, hostile_page: Path, **context: Any) -> tuple[Any, list[str]]:
        page = browser.new_context(offline=True, **context).new_page()
        errors: list[str] = []
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.goto(hostile_page.as_uri())
        page.wait_for_function("[...document.querySelectorAll('.chart')].every(c => c.querySelector('.main-svg'))")
        return page, errors

    def test_charts_axis_table_and_keyboard(self, browser: Any, hostile_page: Path) -> None:
        page, errors = self.open(browser, hostile_page, viewport={"width": 1280, "height": 900})
        title = "document.querySelector('#front-chart .xtitle').textContent"
        before = page.evaluate(title)
        page.select_option("#front-view", "1")
        page.wait_for_function(f"{title} !== {json.dumps(before)}")
        assert page.is_hidden("[data-view=front-0]")
        assert page.is_visible("[data-view=front-1]")
        page.evaluate("Plotly.Fx.hover('front-chart', [{curveNumber: 2, pointNumber: 0}])")
        hover = page.wait_for_selector("#front-chart .hovertext").text_content()
        assert "90 % interval" in hover
        assert "GFLOPs" in hover
        assert page.locator("#trials tbody tr").count() == 25
        page.click("#trials button:has-text('Next')")
        assert page.locator("#trials tbody tr").count() == 16
        page.fill("#trials input", "failed")
        assert page.locator("#trials tbody tr").count() == 1
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.tagName") in ("A", "BUTTON", "INPUT", "DIV", "SUMMARY")
        page.locator("#front-chart .modebar-btn").first.focus()
        assert page.evaluate("getComputedStyle(document.activeElement).outlineColor") == "rgb(0, 114, 178)"
        assert page.get_by_label("Share chart").count() == 0  # would send the data away
        assert page.evaluate("window.hacked") is None
        assert errors == []

    def test_the_slider_changes_the_network(self, browser: Any, hostile_page: Path) -> None:
        page, errors = self.open(browser, hostile_page)
        offer, named = page.locator("[data-budget=front] .offer"), []
        for key in ("Home", "End"):
            page.focus("#front-budget")
            page.keyboard.press(key)
            named.append(offer.text_content())
        assert named[0].startswith("Best within this budget: no SE (trial 0)")
        assert "SE with r=" in named[1]
        assert errors == []

    @pytest.mark.parametrize("width", [390, 1280])
    def test_dark_and_narrow(self, browser: Any, hostile_page: Path, width: int) -> None:
        page, errors = self.open(browser, hostile_page, viewport={"width": width, "height": 800}, color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
        tick = "getComputedStyle(document.querySelector('#front-chart .xtick text')).fill"
        assert page.evaluate(tick) == "rgb(232, 234, 237)"
        page.emulate_media(color_scheme="light")
        page.wait_for_function(f"{tick} === 'rgb(28, 32, 36)'")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.pdf()[:5] == b"%PDF-"
        assert errors == []


def test_a_page_without_charts_is_a_page(tmp_path: Path) -> None:
    page = Page(title="<b>", lead="x", sections=[Section(id="a", title="A", text=["t"])])
    assert "<b>" not in write_page(page, tmp_path / "p.html").read_text()
