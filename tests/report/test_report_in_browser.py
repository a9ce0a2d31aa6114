"""The report of a real run in a browser: the budget and its command, copying, narrow and dark pages, paper."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browsers import chromium
from helpers import tiny

import se_nas
from se_nas.analysis.confirmation import read_confirmed, write_confirmed
from se_nas.analysis.selection import select
from se_nas.cli import main
from se_nas.commands.results import existing_run, report_again

SLIDER, COMMAND = "#front-budget", "[data-budget=front] pre"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A confirmed run of a whole space of eight placements, in a folder whose name has to be quoted."""
    folder = tmp_path_factory.mktemp("runs")
    config = tiny(folder, budget=8, keep_weights="all", out=str(folder / "it's my run"))
    found = se_nas.search(config).folder
    se_nas.confirm(found, top=2, seeds=2)
    return found


def opened(browser: Any, run: Path, **context: Any) -> tuple[Any, list[str]]:
    page = browser.new_context(offline=True, permissions=["clipboard-read", "clipboard-write"], **context).new_page()
    errors: list[str] = []
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto((run / "report.html").as_uri())
    page.wait_for_function("[...document.querySelectorAll('.chart')].every(c => c.querySelector('.main-svg'))")
    return page, errors


def move(page: Any, to: int) -> None:
    page.evaluate(
        f"(to) => {{ const s = document.querySelector('{SLIDER}'); s.value = to;"
        "s.dispatchEvent(new Event('input', {bubbles: true})); }",
        to,
    )


class TestBudget:
    def test_the_slider_names_what_export_takes_under_that_limit(self, browser: Any, run: Path) -> None:
        page, errors = opened(browser, run, viewport={"width": 1400, "height": 900})
        _, study = existing_run(run)
        found = study.findings()
        charts = json.loads(page.locator("#data").text_content())["charts"]["front"]
        views = page.locator("#front-view option").all_inner_texts()
        for view, label in enumerate(views):
            page.select_option("#front-view", label=label)
            budget = charts["budgets"][view]
            cost = {"GFLOPs": "gflops", "parameters": "params"}[label]
            for at in range(0, 1001, 20):
                move(page, at)
                limit = budget["low"] + (budget["high"] - budget["low"]) * at / 1000
                trial = select(found, f"max-{cost}={limit!r}")
                command = page.locator(COMMAND).text_content()
                assert shlex.split(command) == ["se-nas", "export", str(run), "--select", f"trial={trial.number}"]
                assert f"(trial {trial.number})" in page.locator("[data-budget=front] .offer").text_content()
                assert page.get_attribute(SLIDER, "aria-valuetext").startswith("at most ")
        assert errors == []

    def test_the_command_exports_the_named_network(self, browser: Any, run: Path, tmp_path: Path) -> None:
        page, _ = opened(browser, run)
        _, study = existing_run(run)
        trials = {str(t.number): t for t in study.trials()}
        for at in (0, 1000):
            move(page, at)
            program, *words = shlex.split(page.locator(COMMAND).text_content())
            assert program == "se-nas"
            assert main([*words, "--to", str(tmp_path / str(at))]) == 0
            record = json.loads((tmp_path / str(at) / "placement.json").read_text())
            assert record["key"] == trials[words[-1].removeprefix("trial=")].placement.key

    def test_the_button_copies_the_command(self, browser: Any, run: Path) -> None:
        page, errors = opened(browser, run)
        button = page.locator("[data-budget=front] .copy")
        button.click()
        page.wait_for_function("document.querySelector('[data-budget=front] .copy').textContent === 'Copied'")
        assert page.evaluate("navigator.clipboard.readText()") == page.locator(COMMAND).text_content()
        page.locator("#run .copy").click()
        page.wait_for_function("document.querySelector('#run .copy').textContent === 'Copied'")
        assert page.evaluate("navigator.clipboard.readText()").startswith("se-nas search ")
        assert errors == []

    def test_the_keyboard_moves_the_slider_and_the_line_in_the_chart(self, browser: Any, run: Path) -> None:
        page, _ = opened(browser, run)
        place = "document.querySelector('#front-chart').layout.shapes[0].x0"
        move(page, 0)
        assert page.evaluate(place) == 0
        page.focus(SLIDER)
        page.keyboard.press("End")
        assert page.evaluate(place) > 0

    def test_without_its_weights_a_network_is_trained_again(self, browser: Any, run: Path, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        shutil.copytree(run, folder)
        for file in (folder / "weights").glob("[0-9]*.safetensors"):
            file.unlink()
        report_again(folder)
        page, _ = opened(browser, folder)
        words = shlex.split(page.locator(COMMAND).text_content())
        assert words[:5] == ["se-nas", "train", "--config", str(folder / "config.yaml"), "--placement"]
        assert "Its weights are not in the run folder" in page.locator("[data-budget=front]").text_content()


class TestConfirmedValues:
    """After a confirm a network has one number wherever it is shown, or each says which estimate it is."""

    def test_in_the_front_and_its_table(self, run: Path) -> None:
        confirmed = read_confirmed(run)
        assert confirmed is not None
        base = confirmed.of_role("baseline")
        assert base is not None
        text = (run / "report.html").read_text()
        data = json.loads(re.findall(r'application/json"[^>]*>(.*?)</script>', text, re.DOTALL)[0])
        view = data["charts"]["front"]["views"][0]
        traces = {trace["name"]: trace for trace in view["traces"]}
        value = 100 * base.validation.mean
        assert traces["no SE"]["y"] == pytest.approx([value])
        shown = {100 * network.validation.mean for network in confirmed.networks}
        assert traces["confirmed with fresh seeds"]["y"] == pytest.approx(
            [100 * network.validation.mean for network in confirmed.networks]
        )
        recommended = confirmed.network(confirmed.verdict.network)
        assert recommended is not None
        assert traces["recommended"]["y"][0] in shown
        facts = [fact for offer in data["charts"]["front"]["offers"] for fact in offer["facts"]]
        assert all("confirmed" in fact or "model estimate" in fact for fact in facts if fact.startswith("val_accuracy"))
        assert f"{value:.2f}" in text

    def test_effects_say_what_they_are_estimated_from(self, run: Path) -> None:
        confirmed = read_confirmed(run)
        assert confirmed is not None
        repeats = sum(len(network.trials) for network in confirmed.networks)
        text = (run / "report.html").read_text()
        assert f"Model estimates from 8 trainings of the search and {repeats} of the confirm" in text

    def test_another_schedule_is_not_shown_beside_the_search(self, run: Path, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        shutil.copytree(run, folder)
        confirmed = read_confirmed(folder)
        assert confirmed is not None
        write_confirmed(folder, replace(confirmed, epochs=30))
        report_again(folder)
        text = (folder / "report.html").read_text()
        assert (
            "confirmed with fresh seeds" not in re.findall(r'application/json"[^>]*>(.*?)</script>', text, re.DOTALL)[0]
        )
        assert "for 30 epochs" in text


class TestPage:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [390, 1400])
    def test_nothing_is_wider_than_the_page(self, width: int, scheme: Any, browser: Any, run: Path) -> None:
        page, errors = opened(browser, run, viewport={"width": width, "height": 900}, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # What scrolls says so; what does not scroll is whole.
        wrong = page.evaluate(
            "[...document.querySelectorAll('.scroll')].filter((box) => box.offsetParent && (box.scrollWidth > "
            "box.clientWidth + 1) !== (getComputedStyle(box.nextElementSibling).display === 'block')).length"
        )
        assert wrong == 0
        cut = page.locator(".scroll.cut-right").count()
        assert cut if width == 390 else True
        assert errors == []

    def test_the_buttons_of_a_chart_do_not_cover_its_legend(self, browser: Any, run: Path) -> None:
        page, _ = opened(browser, run, viewport={"width": 1400, "height": 900})
        page.hover("#front-chart")
        legend = page.locator("#front-chart .legend").bounding_box()
        for button in page.locator("#front-chart .modebar-btn").all():
            box = button.bounding_box()
            assert box["y"] + box["height"] <= legend["y"]

    def test_paper_has_all_of_it(self, browser: Any, run: Path) -> None:
        page, errors = opened(browser, run)
        assert len(page.pdf()) > 10_000
        page.emulate_media(media="print")
        for part in (SLIDER, ".copy", ".more", "nav"):
            assert not page.locator(part).first.is_visible()
        assert page.locator(COMMAND).is_visible()
        assert errors == []

    def test_files_of_the_network_are_linked_beside_the_page(self, browser: Any, run: Path) -> None:
        page, _ = opened(browser, run)
        links = [link.get_attribute("href") for link in page.locator("#files a").all()]
        assert {"best/model.safetensors", "best/placement.json"} <= set(links)
        assert all((run / link).is_file() for link in links)

    def test_classes_are_compared_in_chart_and_tables(self, browser: Any, run: Path) -> None:
        page, errors = opened(browser, run)
        assert page.locator("#classes-view option").count() == 3
        assert page.locator("#classes table").first.locator("tbody tr").count() == 10
        page.select_option("#classes-view", "2")
        assert errors == []
