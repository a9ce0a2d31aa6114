"""The plan of a search: true numbers, the right noise, a time that comes out, and nothing left behind."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import REPOSITORY, tiny, write_space

import se_nas
from se_nas.analysis.search_plan import SearchPlan, guessed_noise
from se_nas.cli import main
from se_nas.commands.results import existing_run
from se_nas.core.config import Limits, SearchConfig
from se_nas.core.errors import DataError, RunError
from se_nas.core.trial import Recipe, Target
from se_nas.report.plan_text import plan_lines, what_lines


@pytest.fixture
def beside(tmp_path: Path, finished: Path) -> Path:
    """A folder with the run of eight trainings of resnet8, one epoch, in it."""
    shutil.copytree(finished, tmp_path / "runs" / "earlier")
    return tmp_path


def planned(folder: Path, **changes: Any) -> SearchPlan:
    return se_nas.plan(tiny(folder, **{"out": str(folder / "runs" / "new"), **changes}))


def files(folder: Path) -> dict[str, int]:
    """Every file of a folder but the database, which is opened to be read."""
    opened = (".lock", "-wal", "-shm", "study.db")
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if not p.name.endswith(opened)
            and p.is_file()}  # fmt: skip


class TestNumbers:
    def test_images_space_and_trainings(self, tmp_path: Path) -> None:
        plan = planned(tmp_path, budget=3)
        assert plan.images == (1081, 357, 359)
        assert (plan.classes, plan.input_shape, plan.decisions) == (10, (1, 8, 8), 3)
        assert (plan.networks, plan.trainings, plan.trained, plan.slots) == (8, 3, 0, 1)
        assert plan.margin == pytest.approx(0.003)

    def test_a_space_smaller_than_the_budget_is_what_is_trained(self, tmp_path: Path) -> None:
        assert planned(tmp_path, budget=20).trainings == 8
        # Limits leave one placement beside no SE; SE everywhere is trained whatever they are.
        plan = planned(tmp_path, budget=20, max=Limits(params=77_790.0))
        assert (plan.networks, plan.trainings) == (2, 3)
        text = "\n".join(plan_lines(plan))
        assert "all that the space has, fewer than the budget of 20" in text

    def test_time_and_weights_are_those_that_come(self, tmp_path: Path) -> None:
        config = tiny(tmp_path, budget=3, train=Recipe(epochs=2, batch_size=128, precision="32"), keep_weights="all")
        plan = se_nas.plan(config)
        assert plan.timing is not None
        assert plan.timing.warm_up
        assert plan.seconds == pytest.approx(3 * plan.timing.seconds)
        result = se_nas.search(config)
        took = result.trials["seconds"].iloc[1:].mean()  # the first one loads libraries
        assert took / 6 < plan.timing.seconds < 6 * took
        written = sum(file.stat().st_size for file in (tmp_path / "run" / "weights").glob("*.safetensors"))
        assert plan.kept_bytes == pytest.approx(written, rel=0.1)
        data = sum(file.stat().st_size for file in (tmp_path / "run" / "data").iterdir())
        assert plan.data_bytes == pytest.approx(data, rel=0.01)
        assert 50e6 < plan.timing.memory < 10e9

    def test_max_time_is_the_end(self, tmp_path: Path) -> None:
        plan = replace(planned(tmp_path, budget=8, max_time="1s", train=Recipe(epochs=200)), trainings=8)
        assert plan.seconds == 1.0
        assert "(max_time)" in "\n".join(plan_lines(plan))


class TestNothingIsLeft:
    def test_where_nothing_was(self, tmp_path: Path) -> None:
        planned(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["space.yaml"]

    def test_where_a_run_is(self, beside: Path) -> None:
        before = files(beside)
        plan = planned(beside, out=str(beside / "runs" / "earlier"), budget=20)
        assert (plan.trained, plan.trainings) == (8, 0)
        after = files(beside)
        after.pop("space.yaml")
        assert after == before
        _, study = existing_run(beside / "runs" / "earlier")
        assert len(study.trials()) == 8
        assert "time: none, all of it is there" in "\n".join(plan_lines(plan))

    def test_a_run_of_something_else_is_refused_as_the_search_would(self, beside: Path) -> None:
        before = files(beside)
        longer = Recipe(epochs=3, batch_size=256, precision="32")
        with pytest.raises(RunError, match=r"cannot be continued with other settings:\n  train.epochs: 1 -> 3"):
            planned(beside, out=str(beside / "runs" / "earlier"), train=longer)
        assert {k: v for k, v in files(beside).items() if k != "space.yaml"} == before

    def test_data_that_are_not_there_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError):
            planned(tmp_path, data=Target(target=f"folder:{tmp_path / 'nowhere'}"))


class TestNoise:
    def test_is_that_of_a_run_of_the_same_data_beside_it(self, beside: Path) -> None:
        plan = planned(beside)
        _, study = existing_run(beside / "runs" / "earlier")
        told = study.findings().told
        assert told is not None
        assert (plan.noise.sd, plan.noise.trainings) == (told.posterior.noise, 8)
        assert (Path(plan.noise.folder).name, plan.noise.guessed) == ("earlier", False)
        assert plan.effect == pytest.approx((plan.effect_in_sd or 0.0) * told.posterior.noise) or plan.effect is None
        assert any("by 8 trainings in earlier" in line for line in plan_lines(plan))

    def test_of_other_data_or_another_metric_is_not_taken(self, beside: Path) -> None:
        for changes in ({"data": Target(target="digits", args={"split_seed": 7})}, {"metric": "val_f1"}):
            plan = planned(beside, **changes)
            assert plan.noise == guessed_noise("share", 357)
            assert any("a guess for 357 validation images, since no run" in line for line in plan_lines(plan))
        loss = planned(beside, metric="val_loss", direction="minimize", budget=8)
        assert (loss.noise.sd, loss.effect) == (None, None)
        assert any("times the noise of one training" in line for line in plan_lines(loss))

    def test_of_another_network_counts_less_than_of_the_same(self, beside: Path) -> None:
        other = planned(beside, backbone=Target(target="resnet14"), train=Recipe(epochs=2))
        assert (other.noise.trainings, other.noise.backbone, other.noise.epochs) == (8, "resnet8", 1)
        assert any("8 trainings in earlier, resnet8 and 1 epoch" in line for line in plan_lines(other))
        se_nas.search(tiny(beside, budget=6, backbone=Target(target="resnet14"), out=str(beside / "runs" / "own"),
                           train=Recipe(epochs=1, batch_size=512, precision="32")))  # fmt: skip
        again = planned(beside, backbone=Target(target="resnet14"), train=Recipe(epochs=2))
        assert (again.noise.trainings, Path(again.noise.folder).name) == (6, "own")

    def test_broken_folders_beside_it_do_no_harm(self, beside: Path) -> None:
        broken = beside / "runs" / "broken"
        broken.mkdir()
        (broken / "study.db").write_bytes(b"no database")
        shutil.copy(beside / "runs" / "earlier" / "config.yaml", broken)
        (beside / "runs" / "empty").mkdir()
        (beside / "runs" / "empty" / "study.db").touch()
        assert Path(planned(beside).noise.folder).name == "earlier"

    def test_the_guess_grows_where_images_are_few(self) -> None:
        few, many = (guessed_noise("share", n).sd for n in (50, 50_000))
        assert few is not None
        assert many is not None
        assert few > 2 * many
        assert many == pytest.approx(0.004, rel=0.05)


class TestLimitsAndBatches:
    def test_says_that_no_network_is_within_the_limits(self, tmp_path: Path) -> None:
        lines = what_lines(replace(planned(tmp_path), networks=0, listed=True, trainings=2, trained=0))
        assert "space: 0 networks, 3 decisions" in lines
        assert any(line.startswith("limits: no network of the space is within the limits on cost") for line in lines)
        assert "trainings: 2 of 1 epoch" in lines

    def test_warns_of_few_steps_with_a_batch_size_that_has_more(self, tmp_path: Path) -> None:
        plan = planned(tmp_path)

        def said(train: int, batch: int | None) -> list[str]:
            changed = replace(plan, images=(train, 10, 10), batch_size=batch)
            return [line for line in what_lines(changed) if line.startswith("batch:")]

        few = "in which networks learn little: give --batch-size"
        assert said(60, 128) == [f"batch: all 60 training images (batch_size is 128), 1 step an epoch, {few} 8"]
        assert said(400, 128) == [f"batch: 128 images, 3 steps an epoch, {few} 32"]
        for enough in ((1081, 128), (60, 8), (60, 4), (60, None)):
            assert said(*enough) == []


class TestUntimed:
    def test_a_loop_of_ones_own_says_why(self, tmp_path: Path) -> None:
        loop = Target(target=f"{REPOSITORY / 'tests' / 'loops.py'}:Plain")
        plan = se_nas.plan(tiny(tmp_path, trainer=loop, train=Recipe(epochs=1), out=str(tmp_path / "new")))
        assert (plan.timing, plan.images) == (None, None)
        assert "the training loop is your own" in "\n".join(plan_lines(plan))

    def test_steps_that_fail_say_why(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def failing(*_: Any) -> Any:
            raise RuntimeError("no such kernel")

        monkeypatch.setattr("se_nas.training.timed_steps._timed", failing)
        plan = planned(tmp_path)
        assert plan.timing is None
        assert "the timed warm-up failed: RuntimeError: no such kernel" in "\n".join(plan_lines(plan))

    def test_trainings_that_are_there_know_best(self, beside: Path) -> None:
        plan = planned(beside, out=str(beside / "runs" / "earlier"), budget=20, space=write_space(beside, "{}\n"))
        _, study = existing_run(beside / "runs" / "earlier")
        times = [trial.seconds for trial in study.trials()]
        assert plan.timing is not None
        assert (plan.timing.seconds, plan.timing.warm_up) == (pytest.approx(sum(times) / 8), False)
        assert (plan.trained, plan.trainings) == (8, 12)


class TestCommand:
    def test_json_has_what_follows_too(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = str(tmp_path / "run")
        arguments = ["--backbone", "resnet8", "--executor", "inline", "--budget", "8", "--epochs", "1", "--out", out]
        assert main(["search", *arguments, "--plan", "--json"]) == 0
        said = capsys.readouterr()
        found = json.loads(said.out)
        assert (found["images"], found["trainings"], found["seconds"] > 0) == ([1081, 357, 359], 8, True)
        assert found["effect"] == pytest.approx(found["noise"]["sd"] * found["effect_in_sd"])
        assert said.err == ""
        assert not Path(out).exists()

    def test_a_search_says_its_plan_before_its_first_training(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = str(tmp_path / "run")
        arguments = ["--backbone", "resnet8", "--executor", "inline", "--budget", "2", "--epochs", "1", "--out", out]
        assert main(["search", *arguments]) == 0
        said = capsys.readouterr().err.splitlines()
        starts = [
            "Plan: resnet8 on digits", "images: 1,081 to train on", "space: 64 networks", "trainings: 2 of 1 epoch",
            "time: about", "effect: 2 trainings are too few", "noise of one training: 0.8", "memory: ", "disk: ",
            "[1/2] trial 0 none",
        ]  # fmt: skip
        places = [next(i for i, line in enumerate(said) if line.startswith(start)) for start in starts]
        assert places == sorted(places)

    def test_it_trains_as_if_there_had_been_no_plan(self, tmp_path: Path) -> None:
        from se_nas.report.view import View

        def values(name: str, view: View | None) -> list[float]:
            config: SearchConfig = tiny(tmp_path, budget=3, out=str(tmp_path / name))
            return [float(v) for v in se_nas.search(config, view=view).trials["metric"]]

        assert values("said", View()) == values("quiet", None)
