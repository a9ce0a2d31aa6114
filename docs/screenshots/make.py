"""Make the screenshots of the report that the documentation shows: one search, one confirm, one browser.

From the root of the repository, with Chromium and playwright installed (about three minutes on two cores)::

    python docs/screenshots/make.py

With a run folder nothing is trained: ``python docs/screenshots/make.py RUN``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
SEARCH = ["search", "--backbone", "resnet8", "--epochs", "10", "--budget", "24"]
CONFIRM = ["--seeds", "3"]
WIDTHS = {390: 1500, 1400: 1150}
"""Width of the window -> height of what is shown of the page's top."""
BUDGET = 700
"""Where the slider of the budget stands, of 1000."""


def trained(folder: Path) -> Path:
    """A confirmed run in a folder."""
    run = folder / "digits"
    program = [sys.executable, "-m", "se_nas.cli"]
    subprocess.run([*program, *SEARCH, "--out", str(run)], check=True)
    subprocess.run([*program, "confirm", str(run), *CONFIRM], check=True)
    return run


def pages(browser: Any, report: Path) -> Iterator[tuple[Any, int, str]]:
    """The report in each width and theme."""
    for width, height in WIDTHS.items():
        for scheme in ("light", "dark"):
            view = {"width": width, "height": height}
            page = browser.new_context(viewport=view, color_scheme=scheme, offline=True).new_page()
            page.goto(report.as_uri())
            page.wait_for_function("[...document.querySelectorAll('.chart')].every(c => c.querySelector('.main-svg'))")
            yield page, width, scheme


def shoot(page: Any, name: str, *, first: str, last: str) -> None:
    """The page from one element to another."""
    # With a window as high as the page nothing has to be scrolled, and the bar of sections stays at its place.
    width = page.viewport_size["width"]
    page.set_viewport_size({"width": width, "height": page.evaluate("document.documentElement.scrollHeight")})
    page.wait_for_timeout(500)
    start, end = page.locator(first).first.bounding_box(), page.locator(last).first.bounding_box()
    clip = {"x": 0, "y": start["y"], "width": width, "height": end["y"] + end["height"] - start["y"] + 16}
    page.screenshot(path=HERE / f"{name}.png", clip=clip)


def move(page: Any, to: int) -> None:
    """Set the slider of the budget."""
    page.evaluate(
        "(to) => { const slider = document.querySelector('#front-budget'); slider.value = to;"
        "slider.dispatchEvent(new Event('input', { bubbles: true })); }",
        to,
    )


def make(run: Path) -> None:
    """All screenshots of a run."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for page, width, scheme in pages(browser, run / "report.html"):
            page.screenshot(path=HERE / f"report-{width}-{scheme}.png")
            if (width, scheme) == (1400, "light"):
                page.screenshot(path=HERE.parent / "report.png")
            move(page, BUDGET)
            shoot(page, f"front-{width}-{scheme}", first="#front", last="[data-budget=front]")
            shoot(page, f"classes-{width}-{scheme}", first="#classes", last="#classes .scroll")
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        make(Path(sys.argv[1]).resolve())
    else:
        with tempfile.TemporaryDirectory() as temporary:
            make(trained(Path(temporary)))
