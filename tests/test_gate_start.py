"""The experiment on the start of the gates: its trainings, its images, and its statistics against closed forms."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import REPOSITORY
from PIL import Image
from scipy import stats

from se_nas.core.errors import DataError
from se_nas.core.plugins import load
from se_nas.insertion.block import SEBlock
from se_nas.insertion.insert import build_candidate

FOLDER = REPOSITORY / "experiments" / "gate_start"


def of(file: str, name: str) -> Any:
    return load(f"{FOLDER / file}.py:{name}")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 12 images, each image of its own grey; 4 test images."""
    root = tmp_path_factory.mktemp("pictures")
    for part, number in (("train", 12), ("test", 2)):
        for index, name in enumerate(("a", "b")):
            (root / part / name).mkdir(parents=True)
            for i in range(number):
                colour = (10 * i, 128 * index, 7)
                Image.new("RGB", (20, 20), colour).save(root / part / name / f"{i:02}.png")
    return root


class TestImages:
    def test_parts_share_no_image_and_are_drawn_once(self, pictures: Path) -> None:
        first, second = (of("images", "few")(str(pictures), train=5, val=6) for _ in range(2))
        seen = {}
        for part, number in (("train", 10), ("val", 12)):
            labels = first.labels(part)
            assert labels.tolist() == [0] * (number // 2) + [1] * (number // 2)
            images = np.concatenate(list(first.images(part, np.arange(number))))
            assert images.shape == (number, 3, 16, 16)
            assert (images[:, 1, 0, 0] > 0).tolist() == (labels == 1).tolist(), "labels belong to their images"
            seen[part] = {tuple(image[:2, 0, 0]) for image in images}
        assert len(seen["train"]) == 10
        assert not seen["train"] & seen["val"]
        assert first.fingerprint() == second.fingerprint()
        assert first.fingerprint() != of("images", "few")(str(pictures), train=5, val=6, seed=1).fingerprint()
        assert first.labels("test").tolist() == [0, 0, 1, 1], "the test set is left as it was"

    def test_too_few_are_refused(self, pictures: Path) -> None:
        with pytest.raises(DataError, match="8 and 6 images of the class 'a', which has 12"):
            of("images", "few")(str(pictures), train=8, val=6)


class TestTrainings:
    def test_the_design_is_paired_and_each_training_is_there_once(self) -> None:
        cells = list(of("run", "trainings")())
        assert len({cell.name for cell in cells}) == len(cells) == 3 * 5 * (10 + 8)
        table = pd.DataFrame([vars(cell) for cell in cells])
        arms = table.groupby(["network", "epochs", "seed"])[["placement", "start"]].agg(list)
        assert len(arms) == 3 * (10 + 8)
        assert all(sorted(row) == ["all:16", "all:16", "all:4", "all:4", "none"] for row in arms["placement"])
        assert not table.groupby("seed")["network"].nunique().gt(1).any(), "networks have seeds of their own"
        assert table.groupby("network")["lr"].nunique().eq(1).all()

    def test_rows_that_are_there_are_not_trained_again(self, tmp_path: Path) -> None:
        trainings, append, rows = of("run", "trainings"), of("run", "append"), of("run", "read_rows")
        file, cells = tmp_path / "rows.csv", list(trainings())
        assert rows(file) == []
        for cell in (cells[0], cells[7]):
            fields = zip(cell.__dataclass_fields__, cell.name, strict=True)
            append(file, {**dict(fields), "val_accuracy": "0.5"})
        done = {of("run", "name_of")(row) for row in rows(file)}
        left = of("run", "missing")(trainings(), done)
        assert left == [cell for i, cell in enumerate(cells) if i not in (0, 7)]

    def test_one_training_of_each_arm(self, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = load(f"{FOLDER / 'run.py'}:train").__globals__
        monkeypatch.setitem(run, "IMAGES", {"train": 6, "val": 6})
        cells = [c for c in run["trainings"]() if (c.network, c.epochs) == ("bagnet8", 8)][:5]
        short = [run["Cell"](**{**vars(cell), "epochs": 1}) for cell in cells]
        found = [run["train"](cell, pictures, tmp_path / "run", i)[0] for i, cell in enumerate(short)]
        assert [row["start"] for row in found] == ["", "plain", "identity", "plain", "identity"]
        assert len({row["key"] for row in found}) == 5, "five different networks"
        assert len({row["data"] for row in found}) == 1
        assert not list((tmp_path / "run" / "weights").iterdir())

    @pytest.mark.parametrize("name", ["resnet8", "bagnet8", "mobilenet"])
    def test_starts_share_all_weights_but_the_last_layer(self, name: str, pictures: Path, tmp_path: Path) -> None:
        run = load(f"{FOLDER / 'run.py'}:train").__globals__
        given = run["IMAGES"]
        run["IMAGES"] = {"train": 6, "val": 6}
        networks, outputs = {}, {}
        x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        try:
            for start, text in (("plain", "all:16"), ("identity", "all:16"), ("", "none")):
                problem = run["problem_of"](name, start, 1, 0.1, pictures, tmp_path / "run")
                network = build_candidate(
                    problem.config.backbone, problem.space.units, problem.space.parse(text), num_classes=2,
                    input_shape=(3, 16, 16), seed=5,
                )  # fmt: skip
                networks[start], outputs[start] = network, network.eval()(x)
        finally:
            run["IMAGES"] = given
        plain, identity = (networks[start].state_dict() for start in ("plain", "identity"))
        differ = {key for key in plain if not torch.equal(plain[key], identity[key])}
        blocks = {path for path, module in networks["plain"].named_modules() if isinstance(module, SEBlock)}
        assert differ == {f"{path}.fc2.weight" for path in blocks}
        assert len(blocks) == len(problem.space.units) > 2
        torch.testing.assert_close(outputs["identity"], outputs[""])
        assert not torch.allclose(outputs["plain"], outputs[""])


class TestStatistics:
    def test_interval_of_a_mean_is_that_of_the_t_test(self) -> None:
        values = np.random.default_rng(0).normal(0.3, 1, 9)
        found, wanted = of("analyse", "estimate")(values), stats.ttest_1samp(values, 0).confidence_interval(0.9)
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))

    def test_two_networks_pooled_are_a_welch_test(self) -> None:
        """The sum of two means is the difference of one and minus the other, whose interval Welch's test has."""
        generator = np.random.default_rng(1)
        one, other = generator.normal(1, 2, 8), generator.normal(0, 0.5, 12)
        found = of("analyse", "pooled")([one, other]).these
        wanted = stats.ttest_ind(one, -other, equal_var=False).confidence_interval(0.9)
        assert (2 * found.low, 2 * found.high) == pytest.approx((wanted.low, wanted.high))

    def test_equal_errors_give_a_t_interval_over_networks(self) -> None:
        base = np.random.default_rng(2).normal(0, 1, 10)
        base -= base.mean()
        means = np.array([-1.0, 0.5, 2.0])
        found = of("analyse", "pooled")([mean + base for mean in means])
        wanted = stats.ttest_1samp(means, 0).confidence_interval(0.9)
        assert (found.like_these.low, found.like_these.high) == pytest.approx((wanted.low, wanted.high))
        square = base.var(ddof=1) / 10
        assert found.q == pytest.approx(2 * means.var(ddof=1) / square)
        assert found.i2 == pytest.approx(100 * (1 - square / means.var(ddof=1)))
        assert found.p == pytest.approx(stats.chi2.sf(found.q, 2))

    def test_networks_that_agree_too_well_are_no_evidence(self) -> None:
        base = np.random.default_rng(3).normal(0, 1, 10)
        found = of("analyse", "pooled")([base, base.copy(), base.copy()])
        assert (found.q, found.i2) == (pytest.approx(0), 0)
        assert found.like_these.error == pytest.approx(found.these.error)

    def test_intervals_hold_in_nine_of_ten_tables(self) -> None:
        generator, pooled = np.random.default_rng(4), of("analyse", "pooled")
        held = 0
        for _ in range(1000):
            found = pooled([generator.normal(0.2 + shift, 1 + shift, 8) for shift in (-0.5, 0.0, 0.5)]).these
            held += found.low <= 0.2 <= found.high
        assert 870 <= held <= 930


def table(effects: dict[tuple[str, int], float], *, none: float = 40.0, plain: float = -1.0) -> pd.DataFrame:
    """Rows of trainings.csv in which identity - plain is this much, with a little noise that sums to zero."""
    rows = []
    for (network, epochs), effect in effects.items():
        for seed in range(6):
            noise, other = 0.1 * (-1) ** seed, 0.05 * (-1) ** (seed // 2)
            arms = {("none", ""): none}
            for placement, more in (("all:16", 0.0), ("all:4", 0.5)):
                arms[placement, "plain"] = none + plain + more + other * (seed < 4)
                arms[placement, "identity"] = arms[placement, "plain"] + effect + noise
            rows += [
                {"network": network, "epochs": epochs, "placement": placement, "start": start, "seed": seed,
                 "val_accuracy": (value + seed) / 100}
                for (placement, start), value in arms.items()
            ]  # fmt: skip
    return pd.DataFrame(rows)


class TestDecision:
    def decide(self, folder: Path, short: list[float], long: list[float]) -> list[bool]:
        names = ("a", "b", "c")
        effects = {(n, 8): e for n, e in zip(names, short, strict=True)}
        effects |= {(n, 24): e for n, e in zip(names, long, strict=True)}
        table(effects).to_csv(folder / "t.csv", index=False)
        values = of("analyse", "read_values")(folder / "t.csv")
        networks, together = of("analyse", "by_network")(values), of("analyse", "over_networks")(values)
        return list(of("analyse", "decision")(networks, together).values())

    @pytest.mark.parametrize(
        ("short", "long", "held"),
        [
            ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [True, True, True]),
            ([0.02, 0.0, 0.0], [0.5, 0.5, 0.5], [False, True, True]),
            ([1.0, 1.0, 1.0], [-0.15, -0.15, -0.15], [True, False, False]),
            ([1.0, 1.0, 1.0], [0.5, 0.5, -0.5], [True, True, False]),
            ([2.0, 2.0, -1.0], [0.5, 0.5, 0.5], [True, True, False]),
            ([-1.0, -1.0, -1.0], [-1.0, -1.0, -1.0], [False, False, False]),
        ],
    )
    def test_each_condition_decides(
        self, short: list[float], long: list[float], held: list[bool], tmp_path: Path
    ) -> None:
        assert self.decide(tmp_path, short, long) == held

    def test_differences_are_those_that_were_put_in(self, tmp_path: Path) -> None:
        table({("a", 8): 0.7, ("b", 8): 0.3}).to_csv(tmp_path / "t.csv", index=False)
        found = of("analyse", "by_network")(of("analyse", "read_values")(tmp_path / "t.csv"))
        means = found.set_index(["contrast", "reduction", "network"])["mean"]
        assert means["identity - plain", "mean", "a"] == pytest.approx(0.7)
        assert means["SE plain - none", "all:4", "b"] == pytest.approx(-0.5)
        assert means["SE identity - none", "mean", "b"] == pytest.approx(-1 + 0.25 + 0.3)

    def test_a_seed_without_all_arms_is_left_out(self, tmp_path: Path) -> None:
        rows = table({("a", 8): 0.7})
        rows = rows.drop(rows[(rows["seed"] == 2) & (rows["start"] == "identity")].index[0])
        rows.to_csv(tmp_path / "t.csv", index=False, quoting=csv.QUOTE_ALL)
        values = of("analyse", "read_values")(tmp_path / "t.csv")
        assert sorted(values.index.get_level_values("seed")) == [0, 1, 3, 4, 5]
