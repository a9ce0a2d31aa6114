"""The section that says where SE helps: with few classes and many, before a confirm, and for tasks without classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import INFO, OBJECTIVE, findings, reading_of, searched
from test_decisions import networks_of

from se_nas.analysis.by_class import ByClass, compare_classes
from se_nas.analysis.confirmation import Confirmation, Verdict
from se_nas.core.config import SearchConfig
from se_nas.core.trial import Target
from se_nas.report.classes_section import CUT, LARGEST, classes_section
from se_nas.report.page import Section
from se_nas.space.space import Space


def compared(classes: int, *, gains: int = 0) -> ByClass:
    """Networks that are right in half of the images, but the one with SE always in the first classes."""
    rng = np.random.default_rng(0)
    true = np.repeat(np.arange(classes), 20)
    wrong = (true + rng.integers(1, 3, (3, 3, len(true)))) % classes
    predicted = np.where(rng.random(wrong.shape) < 0.5, true, wrong)
    predicted[1] = np.where(true < gains, true, predicted[1])
    return compare_classes(predicted, true, [f"class {k}" for k in range(classes)], network="1")


def section(space: Space, by_class: ByClass | None, *, seeds: int = 3, confirmed: bool = True) -> Section | None:
    base, other = networks_of(0.5, 0.6)
    found = Confirmation(
        metric="val_accuracy", direction="maximize", unit="share", cost="params", epochs=1, search_epochs=1,
        seeds=tuple(range(seeds)), test_images=200, openings=1, networks=(base, other), by_class=by_class,
        verdict=Verdict(phase="confirm", claim="undecided", network="0"),
    )  # fmt: skip
    searches = findings(searched(space, 20), OBJECTIVE, space)
    return classes_section(reading_of(searches, confirmation=found if confirmed else None))


def test_few_classes_have_a_matrix_and_all_their_rows(space8: Space) -> None:
    found = section(space8, compared(8, gains=1))
    assert found is not None
    assert found.chart is not None
    assert "1 class differs by more than noise, of 8 compared: class 0 (+" in " ".join(found.text)
    assert "the recommended network has no SE" in " ".join(found.text)
    accuracy, mistakes = found.tables[:2]
    assert len(accuracy.rows) == 8
    assert accuracy.rows[0][0] == "class 0"
    assert accuracy.marked == (0,)
    assert mistakes.rows[0][0] == "class 0"


@pytest.mark.parametrize("classes", [100, 300])
def test_many_classes_show_the_largest_differences_and_cut_the_rest(classes: int, space8: Space) -> None:
    found = section(space8, compared(classes))
    assert found is not None
    assert found.chart is None
    largest, rest = found.tables[:2]
    assert len(largest.rows) == LARGEST
    assert len(rest.rows) == min(CUT, classes - LARGEST)
    assert rest.closed
    assert ("cut after 100" in rest.caption) == (classes > CUT + LARGEST)
    sizes = [abs(float(row[4])) for row in (*largest.rows, *rest.rows)]
    assert sizes == sorted(sizes, reverse=True)


def test_before_a_confirm_it_says_how_to_get_it(space8: Space) -> None:
    for found, said in (
        (section(space8, None, confirmed=False), "se-nas confirm x"),
        (section(space8, None, seeds=1), "se-nas confirm x --seeds 3"),
        (section(space8, None), "remove x/confirm and confirm again"),
    ):
        assert found is not None
        assert found.chart is None
        assert len(found.text) == 1
        assert said in found.text[0]


def test_a_task_without_classes_has_no_such_section(space8: Space) -> None:
    searches = findings(searched(space8, 20), OBJECTIVE, space8)
    other = SearchConfig(task=Target(target="segment.py:LitSegmenter"))
    assert classes_section(reading_of(searches, config=other)) is None
    own = SearchConfig(trainer=Target(target="loop.py:train"))
    assert classes_section(reading_of(searches, config=own)) is None
    assert classes_section(reading_of(searches, data=replace(INFO, classes=()))) is None
