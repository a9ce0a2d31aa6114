"""The table of the CIFAR-100 experiment as a landscape, on made-up trainings with known truth."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import REPOSITORY, backbone_of, units_of
from scipy import stats

from se_nas.space.exact_cost import CostModel
from se_nas.space.space import Space
from se_nas.space.spec import read_space

FOLDER = REPOSITORY / "experiments" / "cifar100"
EFFECTS = np.array([[0, 0.5, 0.6, 0.7], [0, 0.1, 0.1, 0.1], [0, -0.2, -0.3, -0.4]])
NOISE, EPOCHS = 0.3, 4


def write_made_up(folder: Path, seeds: int, noise: float = NOISE) -> np.ndarray:
    """placements.csv and curves.csv of resnet8 with additive gains; returns the true accuracies (64,), in points."""
    shape = (3, 16, 16)
    units = units_of("resnet8", shape)
    space, costs = Space(read_space("stagewise"), units), CostModel(backbone_of("resnet8", shape), units, shape)
    placements: dict[str, Any] = {}
    for levels in space.levels():
        placement = space.placement(levels)
        placements.setdefault(placement.key, placement)
    rows, curves, truth = [], [], []
    generator = np.random.default_rng(0)
    words = ["none", "16", "8", "4"]
    for key, placement in placements.items():
        label = placement.label
        each = [label.removeprefix("all:")] * 3 if "=" not in label else [p.split("=")[1] for p in label.split(",")]
        gain = sum(EFFECTS[j, words.index(word)] for j, word in enumerate(each))
        truth.append(40 + gain)
        rows.append({"key": key, "placement": label} | {n: c.value for n, c in costs(placement).values().items()})
        for seed in range(seeds):
            value = (40 + gain + generator.normal(0, noise)) / 100
            curves += [
                {"key": key, "placement": label, "seed": seed, "epochs": EPOCHS, "epoch": e, "seconds": 1.0,
                 "val_accuracy": value * e / EPOCHS}
                for e in range(1, EPOCHS + 1)
            ]  # fmt: skip
    order = np.random.default_rng(1).permutation(len(rows))
    pd.DataFrame(rows).iloc[order].to_csv(folder / "placements.csv", index=False)
    pd.DataFrame(curves).to_csv(folder / "curves.csv", index=False)
    return np.array(truth)


@pytest.fixture(scope="module")
def scripts() -> Any:
    """The modules of the experiment."""
    names = ("landscape", "replay", "replay_rules", "run", "tables")
    others = {name: sys.modules.pop(name) for name in names if name in sys.modules}  # other experiments have namesakes
    sys.path.insert(0, str(FOLDER))
    try:
        import landscape
        import replay
        import replay_rules
        import run
        import tables
    finally:
        sys.path.remove(str(FOLDER))
    yield type("Scripts", (), {"landscape": landscape, "replay": replay, "replay_rules": replay_rules, "run": run,
                               "tables": tables})  # fmt: skip
    for name in names:
        sys.modules.pop(name)
    sys.modules.update(others)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    folder = tmp_path_factory.mktemp("results")
    return folder, write_made_up(folder, 3)


def test_costs_and_gains_of_the_landscape(scripts: Any, made_up: tuple[Path, np.ndarray]) -> None:
    folder, truth = made_up
    table = scripts.landscape.read_table(folder)
    landscape = table.landscape("test", table.finals(0), NOISE)
    assert (table.stages, table.complete()) == (("stage1", "stage2", "stage3"), [0, 1, 2])
    np.testing.assert_allclose(landscape.costs(table.codes) * 1e3, table.params - table.params[0])
    np.testing.assert_allclose(landscape.gain(table.codes), table.finals(0) - table.finals(0)[0])
    exact = EFFECTS[np.arange(3), table.codes].sum(axis=1)
    assert np.abs(table.finals(0) - 40 - exact).max() < 6 * NOISE
    assert sorted(truth.round(6)) == sorted((40 + exact).round(6))


def test_the_noise_is_found(scripts: Any, made_up: tuple[Path, np.ndarray]) -> None:
    table = scripts.landscape.read_table(made_up[0])
    values = np.array([table.finals(seed) + 5 * seed for seed in range(3)]).T  # shifts of whole seeds do not count
    assert scripts.landscape.seed_noise(values) == pytest.approx(NOISE, rel=0.2)


def test_the_truth_has_no_seed_that_is_replayed(scripts: Any, made_up: tuple[Path, np.ndarray]) -> None:
    table = scripts.landscape.read_table(made_up[0])
    for seed, truth, n, _ in scripts.replay.splits(table):
        others = [table.finals(s) for s in range(3) if s != seed]
        np.testing.assert_allclose(truth, np.mean(others, axis=0))
        assert n == 2


def test_a_perfect_search_scores_one(scripts: Any, tmp_path: Path) -> None:
    write_made_up(tmp_path, 2, noise=0.0)
    table = scripts.landscape.read_table(tmp_path)
    truth = table.finals(1)
    landscape = table.landscape("test", truth, NOISE)
    rows = {
        row["judge"]: row for row in scripts.replay.judged(landscape, table, truth, 0.01, table.codes, table.finals(0))
    }
    assert rows["observed"]["share"] == pytest.approx(1)
    assert rows["observed"]["near_best"]
    assert rows["posterior"]["share"] > 0.97
    front = scripts.replay.on_front(landscape, table)
    assert front[0]
    assert 4 <= front.sum() < 20


def test_main_effects_are_found(scripts: Any, made_up: tuple[Path, np.ndarray]) -> None:
    effects = scripts.tables.main_effects(made_up[0])
    assert list(effects["stage"]) == ["stage1"] * 3 + ["stage2"] * 3 + ["stage3"] * 3
    assert list(effects["reduction"]) == [16, 8, 4] * 3
    assert (np.abs(effects["effect"] - EFFECTS[:, 1:].ravel()) < 4 * effects["se"]).all()
    assert NOISE / np.sqrt(3) * np.sqrt(1 / 8) == pytest.approx(effects["se"].mean(), rel=0.3)  # of balanced rows


def test_the_replay_writes_its_rows(scripts: Any, made_up: tuple[Path, np.ndarray], monkeypatch: Any) -> None:
    folder = made_up[0]
    arguments = ["replay.py", "search", "--folder", str(folder), "--repeats", "1", "--peers", "random,known-cost"]
    monkeypatch.setattr(sys, "argv", arguments)
    scripts.replay.main()
    rows = pd.read_csv(folder / "replay.csv")
    assert len(rows) == 3 * (2 + 2 * 3 * 2)  # seeds x (exhaustive by two judges + peers x checks x judges)
    assert rows["share"].max() <= 1 + 1e-6


def test_rows_are_paired_by_seed(scripts: Any) -> None:
    values = pd.DataFrame({0: [40.0, 41.0], 1: [50.0, 51.5], 2: [45.0, np.nan]}, index=["none", "all:16"])
    table = scripts.tables.rows_against_none(values, {"none": "none", "16": "all:16"}, {"none": 23.3, "16": 22.28})
    row = table.iloc[1]
    assert (row["n"], row["gain"]) == (2, pytest.approx(1.25))
    assert row["gain_high"] - row["gain"] == pytest.approx(6.3138 * 0.25, rel=1e-3)  # t of one degree of freedom
    assert row["paper_gain"] == pytest.approx(1.02)


def test_a_table_that_has_hardly_begun(scripts: Any, tmp_path: Path) -> None:
    placements = pd.DataFrame({"key": ["a", "b"], "placement": ["none", "all:16"]})
    assert scripts.tables.stage_rows(placements) == {"none": "none", "all but the last": "", "all": "all:16"}
    placements.to_csv(tmp_path / "placements.csv", index=False)
    with pytest.raises(ValueError, match="no placement that differs"):
        scripts.landscape.read_table(tmp_path)


def test_a_run_that_has_gone_on_is_not_narrowed(scripts: Any, tmp_path: Path) -> None:
    assert not scripts.run.widened(tmp_path)
    (tmp_path / "config.yaml").write_text("space: stagewise\n")
    assert scripts.run.widened(tmp_path)


@pytest.mark.parametrize("version", ["cpu", "gpu"])
def test_commands_are_ones_that_se_nas_takes(scripts: Any, version: str, tmp_path: Path) -> None:
    from se_nas.cli import parse

    for command in scripts.run.commands(version, "folder:PATH", tmp_path, workers=2):
        given = parse(command)
        assert given.command == command[0]


class TestRules:
    """Rules that need no search beside replayed searches."""

    def test_places_are_those_of_the_rules_levels(self, scripts: Any, made_up: tuple[Path, np.ndarray]) -> None:
        """Level 1 is r = 16; the keys of the table are those of resnet8 at 16 pixels."""
        table = scripts.landscape.read_table(made_up[0])
        places = scripts.replay_rules.rule_places(table, "cpu")
        levels = [tuple(table.codes[place]) for place in places.values()]
        assert levels == [(1, 1, 1), (1, 1, 0), (1, 0, 0), (0, 1, 1), (0, 0, 1)]
        assert next(iter(places)) == "SE everywhere"

    def test_a_fixed_placement_gains_its_mean_over_no_se(self, scripts: Any, made_up: tuple[Path, np.ndarray]) -> None:
        """Over all seeds, with the t interval of a difference of two means."""
        table = scripts.landscape.read_table(made_up[0])
        finals = np.array([table.finals(seed) for seed in range(3)]).T
        row = scripts.replay_rules.gain_row(table, dict.fromkeys(range(3), np.eye(64)[5]))
        assert row["gain"] == pytest.approx(finals[5].mean() - finals[0].mean())
        reach = scripts.landscape.seed_noise(finals) * np.sqrt(2 / 3) * stats.t.ppf(0.95, 63 * 2)
        assert (row["lower"], row["upper"]) == pytest.approx((row["gain"] - reach, row["gain"] + reach))

    def test_a_choice_is_judged_by_the_other_seeds(self, scripts: Any, made_up: tuple[Path, np.ndarray]) -> None:
        table = scripts.landscape.read_table(made_up[0])
        finals = np.array([table.finals(seed) for seed in range(3)]).T
        chosen = {0: np.eye(64)[7], 1: 0.5 * (np.eye(64)[7] + np.eye(64)[9]), 2: np.eye(64)[0]}
        gains = finals - finals[0]
        by_hand = [
            gains[7, [1, 2]].mean(),
            (0.5 * (gains[7] + gains[9]))[[0, 2]].mean(),
            0.0,
        ]
        assert scripts.replay_rules.gain_row(table, chosen)["gain"] == pytest.approx(np.mean(by_hand))
        none = scripts.replay_rules.gain_row(table, dict.fromkeys(range(3), np.eye(64)[0]))
        assert none == {"gain": 0.0, "lower": 0.0, "upper": 0.0}

    def test_searches_on_trainings_without_noise_agree(self, scripts: Any, tmp_path: Path) -> None:
        """The truly best is SE in the first two stages at r = 4; shares add up to 1."""
        write_made_up(tmp_path, 2, noise=0.001)
        shares = scripts.replay_rules.searched_shares(scripts.landscape.read_table(tmp_path), 1, 0)
        assert list(shares) == [10, 20, 50]
        assert all(row.sum() == pytest.approx(1) for by_seed in shares.values() for row in by_seed.values())
        table = scripts.landscape.read_table(tmp_path)
        for row in shares[50].values():
            first, _, last = table.codes[row.argmax()]
            assert (first, last) == (3, 0)
