"""The experiment on confirms in rounds: each design is judged on one and the same world."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import REPOSITORY

from se_nas.core.plugins import load

SCRIPT = REPOSITORY / "experiments" / "confirm_simulation" / "rounds.py"


def made(name: str) -> Any:
    return load(f"{SCRIPT}:{name}")


def test_rows_of_one_confirm() -> None:
    rows = list(made("rows")(0.6, 0))
    assert [row["design"] for row in rows] == ["5 seeds", "10 seeds", "20 seeds", "rounds", "any look"]
    assert [row["trainings"] for row in rows[:3]] == [25, 50, 100]
    planned = made("in_rounds")(made("World").of(0.6, 0))
    assert sum(planned) == rows[3]["trainings"] <= 100
    assert max(planned) == rows[3]["seeds"]
    assert {row["claim"] for row in rows} <= {"use", "without", "undecided"}


def test_the_share_is_that_of_a_fixed_number_of_seeds_with_the_same_power() -> None:
    import pandas as pd

    columns = ("effect", "design", "power", "seeds", "trainings")
    rows = [(0.5, "5 seeds", 0.5, 5, 25), (0.5, "20 seeds", 0.9, 20, 100), (0.5, "rounds", 0.9, 11, 40)]
    assert made("_share")(pd.DataFrame(rows, columns=columns))[2] == pytest.approx(0.4)
    rows[2] = (0.5, "rounds", 0.95, 11, 40)
    assert pd.isna(made("_share")(pd.DataFrame(rows, columns=columns))[2])
