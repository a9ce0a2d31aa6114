"""Training loops of the user's own: a search with one, what it is given, and what cannot work."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import loops
import msgspec
import numpy as np
import pytest
import torch
import yaml
from helpers import Recording, identity, tiny, trial, write_npz, write_space
from safetensors.torch import load_file
from torch import nn

import se_nas
from se_nas.cli import main
from se_nas.commands.confirm import confirm
from se_nas.commands.export import export
from se_nas.commands.results import existing_run
from se_nas.commands.search import search
from se_nas.commands.train import train_placement
from se_nas.core.config import SearchConfig, TrainConfig
from se_nas.core.errors import ConfigError, DataError, PluginError, RunError, SeNasError, TrainingError
from se_nas.core.files import weights_file
from se_nas.core.placement import Placement
from se_nas.core.serialization import checksum, from_json, to_json
from se_nas.core.trial import Recipe, RunIdentity, Target
from se_nas.engine.run_folder import default_folder
from se_nas.training.contract import TrainerContract
from se_nas.training.loop_run import run_loop
from se_nas.training.trainers import open_loop

FILE = loops.__file__


def of_loop(name: str, **args: Any) -> Target:
    return Target(target=f"{FILE}:{name}", args=args)


def config(folder: Path, name: str = "Plain", **changes: Any) -> SearchConfig:
    settings: dict[str, Any] = {"trainer": of_loop(name), "train": Recipe(epochs=2), **changes}
    return tiny(folder, **settings)


def ran(name: str, network: nn.Module | None = None, *, epochs: int = 3, stop_after: int | None = None) -> Any:
    """How a training of a small network ended, and what the channel heard."""
    loop, channel = open_loop(of_loop(name)), Recording(stop_after)
    assert loop is not None
    end = run_loop(loop, network or nn.Linear(3, 2), {}, seed=5, epochs=epochs, channel=channel)
    return end, channel.reports


class TestPlainContract(TrainerContract):
    """The contract, of a loop that brings its data."""

    trainer = of_loop("Tested")

    def network(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


class TestContractOfStubborn(TrainerContract):
    """A loop that hears no stop is stopped all the same."""

    trainer = of_loop("stubborn")

    def network(self) -> nn.Module:
        return nn.Linear(2, 2)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A search with a loop that brings its own data, in this process."""
    return search(config(tmp_path_factory.mktemp("plain"), budget=3, keep_weights="all"))


class TestSearch:
    def test_own_data_in_this_process(self, plain: Any) -> None:
        result = plain
        trials = result.found.trials
        assert [t.state for t in trials] == ["complete"] * 3
        assert all([e.epoch for e in t.curve] == [1, 2] for t in trials)
        assert all("gone" not in t.metrics and t.metrics["val_accuracy"].unit == "share" for t in trials)
        assert all(t.identity.trainer == of_loop("Plain") for t in trials)
        assert result.trials["metric"].max() > 0.5
        data = json.loads((result.folder / "data" / "data.json").read_text())
        assert (data["kind"], data["classes"], data["input_shape"]) == ("own", ["dark", "grey", "bright"], [1, 8, 8])
        assert (result.folder / "trainings" / "0" / "own.txt").read_text() == f"{trials[0].identity.seed} cpu\n"
        page = (result.folder / "report.html").read_text()
        assert "the own data of" in page
        assert "loops.py:Plain" in page
        network = result.network("trial=0")
        end = loops.scores(network, *loops.images_of(1, 30)).mean()
        assert trials[0].metrics["val_accuracy"].value == pytest.approx(float(end))

    def test_worker_processes_whose_loaders_have_workers(self, plain: Any, tmp_path: Path) -> None:
        settings = {"executor": Target(target="local"), "workers": 1, "trainer": of_loop("Plain", workers=1)}
        there = search(config(tmp_path, budget=1, **settings))
        assert list(there.trials["state"]) == ["complete"]
        assert list(there.trials["metric"]) == list(plain.trials["metric"][:1])

    @pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
    def test_on_ray(self, plain: Any, tmp_path: Path) -> None:
        there = search(config(tmp_path, budget=2, executor=Target(target="ray"), workers=1))
        assert list(there.trials["metric"]) == list(plain.trials["metric"][:2])
        assert (there.folder / "trainings" / "1" / "own.txt").is_file()

    def test_it_goes_on_and_not_with_another_loop_or_other_data(self, tmp_path: Path) -> None:
        first = search(config(tmp_path, budget=2))
        again = search(config(tmp_path, budget=3))
        assert list(again.trials["metric"][:2]) == list(first.trials["metric"])
        for changes in (
            {"trainer": of_loop("Tested")},
            {"input_shape": "1,8,9"},
            {"trainer": Target(target="lightning")},
        ):
            with pytest.raises(RunError, match="cannot be continued with other settings"):
                search(config(tmp_path, budget=3, **changes))

    def test_the_data_set_of_the_search(self, tmp_path: Path) -> None:
        data = Target(target=f"npz:{write_npz(tmp_path / 'd.npz', n=90)}")
        recipe = Recipe(epochs=2, batch_size=16, lr=0.05)
        result = search(config(tmp_path, "with_data", data=data, train=recipe, budget=3))
        assert [t.metrics["val_images"].value for t in result.found.trials] == [18.0] * 3
        assert result.trials["metric"].max() > 0.5
        assert [t.curve[-1].metrics["val_accuracy"] for t in result.found.trials] == list(result.trials["metric"])

    def test_command_line_and_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        space = write_space(tmp_path)
        Path("s.yaml").write_text(yaml.safe_dump({"trainer": {"target": f"{FILE}:silent"}, "input_shape": [1, 8, 8],
                                                  "num_classes": 3, "backbone": "resnet8"}))  # fmt: skip
        given = ["--space", space, "--budget", "1", "--executor", "inline", "--device", "cpu", "--quiet"]
        assert main(["search", "--config", "s.yaml", *given]) == 0
        assert main(["search", "--trainer", f"{FILE}:silent", "--input-shape", "1,8,8", "--num-classes", "3",
                     "--backbone", "resnet8", "--out", "b", *given]) == 0  # fmt: skip
        assert existing_run(Path("runs/resnet8-loops-silent"))[1].trials()[0].state == "complete"
        assert existing_run(Path("b"))[1].trials()[0].metrics["val_accuracy"].value == 0.5

    def test_live_objects(self, tmp_path: Path) -> None:
        def mine(network: nn.Module, *, report: Any) -> None:
            loops.step(network)
            report(1, {"loss": 0.5})

        mine.input_shape = (1, 8, 8)  # type: ignore[attr-defined]
        common: dict[str, Any] = {"backbone": "resnet8", "budget": 1, "epochs": 1, "space": write_space(tmp_path)}
        result = se_nas.search(trainer=mine, metric="loss", out=str(tmp_path / "a"), **common)
        assert list(result.trials["metric"]) == [0.5]
        assert result.found.objective.direction == "minimize"
        result = se_nas.search(trainer=loops.Plain(lr=0.2), out=str(tmp_path / "b"), **common)
        assert list(result.trials["state"]) == ["complete"]
        result = se_nas.search(
            trainer=loops.silent, input_shape=(1, 8, 8), out=str(tmp_path / "c"), workers=1, **common
        )
        assert list(result.trials["metric"]) == [0.5]
        with pytest.raises(ConfigError, match="trainer is an object of this process"):
            se_nas.search(trainer=mine, metric="loss", executor="local", out=str(tmp_path / "d"), **common)

    def test_a_stop_ends_a_training_that_does_not_hear_it(self) -> None:
        end, reports = ran("stubborn", epochs=5, stop_after=2)
        assert (end.stopped, len(reports)) == (True, 2)
        assert end.metrics == {"val_accuracy": 0.2}

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("failing", rf"ValueError: no such file \({FILE}, line \d+\)"),
            ("leaving", r"sys\.exit\('it was enough'\)"),
        ],
    )
    def test_a_loop_that_fails_is_a_failed_trial(self, tmp_path: Path, name: str, reason: str) -> None:
        with pytest.raises(RunError, match=f"trainings all failed; the last one: {reason}"):
            search(config(tmp_path, name, input_shape="1,8,8", budget=2))
        trials = existing_run(tmp_path / "run")[1].trials()
        assert {t.state for t in trials} == {"failed"}


class TestLoop:
    def test_what_it_returns_counts_and_what_it_reports_is_the_curve(self) -> None:
        end, reports = ran("stubborn")
        assert [e.metrics["val_accuracy"] for e in end.curve] == [0.1, 0.2, 0.3]
        assert (end.metrics, end.stopped, len(reports)) == ({"val_accuracy": 1.0}, False, 3)

    def test_without_reports_the_curve_is_its_end(self) -> None:
        end, _ = ran("silent")
        assert [(e.epoch, e.metrics) for e in end.curve] == [(3, {"val_accuracy": 0.5})]

    def test_an_early_end_of_its_own_is_noted(self) -> None:
        end, _ = ran("patient")
        assert not end.stopped
        assert end.notes == ("the loop ended by itself after epoch 1 of 3",)

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("lazy", "has not trained the network that it was given: its weights are as before"),
            ("mute", "reported no epoch and returned no metrics"),
            ("changing", r"has changed the layers of the network \(2 tensors, such as 'extra.bias'\)"),
            ("misspelt", "the loop returned no 'val_accuracy', but val_acuracy"),
            ("wordy", "the loop returned str, not metrics by name"),
            ("listing", "the loop returned 'val_accuracy' as list, which is not a number"),
            ("infinite", "non-finite val_accuracy in epoch 3"),
            ("counting_from_zero", "reported epoch 0 after epoch 0 of 3"),
            ("endless", "reported epoch 4 after epoch 3 of 3"),
        ],
    )
    def test_what_is_wrong_is_said(self, name: str, words: str) -> None:
        with pytest.raises(TrainingError, match=words):
            ran(name)

    def test_streams_are_set_and_put_back(self) -> None:
        def draws(network: nn.Module, *, seed: int, report: Any) -> None:
            loops.step(network)
            report(1, {"loss": 0.0, "a": random.random(), "b": np.random.random(), "c": torch.rand(())})

        loop = open_loop(se_nas.core.overrides.target_of("trainer", draws), metric="loss")
        assert loop is not None
        before = random.getstate(), np.random.get_state()[1].tolist()
        drawn = [
            run_loop(loop, nn.Linear(2, 2), {}, seed=seed, epochs=1, channel=Recording()).metrics for seed in (1, 1, 2)
        ]
        assert drawn[0] == drawn[1]
        assert all(drawn[0][name] != drawn[2][name] for name in "abc")
        assert (random.getstate(), np.random.get_state()[1].tolist()) == before

    def test_equal_seeds_start_from_equal_backbones(self, tmp_path: Path) -> None:
        """A loop that multiplies all weights leaves the start to be seen."""
        result = search(
            config(
                tmp_path, "silent", input_shape="1,8,8", num_classes=3, vary_seed=False, budget=2, keep_weights="all"
            )
        )
        one, two = (load_file(weights_file(result.folder, n)) for n in (0, 1))
        shared = {name for name in one if "running" not in name and "batches" not in name}
        assert shared
        assert shared < set(two)
        assert all(torch.equal(one[name], two[name]) for name in shared)


class TestWrongInput:
    @pytest.mark.parametrize(
        ("changes", "kind", "words"),
        [
            ({"trainer": of_loop("no_network")}, PluginError, "takes no network: its first argument"),
            ({"trainer": of_loop("greedy")}, PluginError, "missing a required argument: 'optimizer'"),
            ({"trainer": of_loop("NUMBER")}, PluginError, "is int"),
            ({"trainer": of_loop("Plain", rate=1)}, PluginError, "unexpected keyword argument 'rate'"),
            ({"trainer": of_loop("silent", rate=1)}, PluginError, "unexpected keyword argument 'rate'"),
            ({"trainer": Target(target="lightening")}, PluginError, "did you mean 'lightning'"),
            ({"trainer": of_loop("silent")}, ConfigError, "nothing says what images the network gets"),
            ({"trainer": of_loop("silent"), "input_shape": "8"}, ConfigError, "input_shape is '8'"),
            ({"trainer": of_loop("silent"), "metric": "auc"}, ConfigError, "it is not said whether more auc is better"),
            ({"task": Target(target="my.py:Task")}, ConfigError, "a task is what Lightning trains"),
            ({"graph": "shared"}, ConfigError, "only Lightning's trainings share one network"),
            ({"devices_per_trial": 2}, ConfigError, "only Lightning trains one network on several devices"),
            ({"logs": "csv"}, ConfigError, "only Lightning's trainings are logged"),
            ({"train": Recipe(precision="bf16")}, ConfigError, "decides in which precision"),
            ({"train": Recipe(lr=0.3)}, ConfigError, "lr is 0.3, but the trainer's own loop does not look at it"),
            (
                {"trainer": Target(target="lightning"), "num_classes": 3},
                ConfigError,
                "num_classes is given, but Lightning",
            ),
            ({"trainer": of_loop("with_data"), "data": Target(target="own")}, PluginError, "unknown data 'own'"),
        ],
    )
    def test_settings(self, tmp_path: Path, changes: dict[str, Any], kind: type[SeNasError], words: str) -> None:
        with pytest.raises(kind) as caught:
            search(config(tmp_path, **changes))
        assert words in str(caught.value)

    def test_what_is_in_a_file_must_be_named(self, tmp_path: Path) -> None:
        with pytest.raises(PluginError, match="does not say what in the file is meant"):
            search(config(tmp_path, trainer=Target(target=FILE)))

    def test_no_training_on_the_validation_part_of_unknown_data(self, tmp_path: Path) -> None:
        given = TrainConfig(placement="none", backbone=Target(target="resnet8"), trainer=of_loop("Plain"), device="cpu",
                            include_val=True, executor=Target(target="inline"), out=str(tmp_path))  # fmt: skip
        with pytest.raises(DataError, match="says itself what is trained on"):
            train_placement(given)


class TestRecords:
    def test_trainings_with_lightning_are_written_as_before(self) -> None:
        own = identity(Placement(choices={}))
        plain = msgspec.json.decode(to_json(own))
        assert "trainer" not in plain
        assert checksum(own) == "8d427079e00b5aaf"  # of version 0.2, which knew no trainers
        assert own.classifies
        assert from_json(to_json(own), RunIdentity) == own

    def test_a_trainer_is_part_of_the_identity(self) -> None:
        own = identity(Placement(choices={}), trainer=of_loop("Plain"))
        assert from_json(to_json(own), RunIdentity) == own
        assert checksum(own) != checksum(replace(own, trainer=of_loop("Tested")))
        assert not own.classifies
        assert trial(Placement(choices={})).identity.classifies

    def test_a_study_from_before_trainers_goes_on(self, tmp_path: Path) -> None:
        result = search(tiny(tmp_path, budget=1))
        study = existing_run(result.folder, read_only=False)[1]
        facts = study.optuna.user_attrs["facts"]
        study.optuna.set_user_attr("facts", {name: value for name, value in facts.items() if name != "trainer"})
        kept = study.optuna.user_attrs["config"]
        study.optuna.set_user_attr("config", {name: value for name, value in kept.items() if name != "trainer"})
        assert search(tiny(tmp_path, budget=2)).trials["counts"].sum() == 2

    def test_folders(self) -> None:
        backbone = Target(target="resnet8")
        names = [
            str(default_folder(SearchConfig(backbone=backbone, **more)))
            for more in (
                {},
                {"trainer": of_loop("Plain")},
                {"trainer": of_loop("Plain"), "data": Target(target="npz:a.npz")},
            )
        ]
        assert names == ["runs/resnet8-digits", "runs/resnet8-loops-Plain", "runs/resnet8-npz-a-loops-Plain"]


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A search and a confirm for each kind of test function."""
    found = {}
    for name in ("Tested", "TestedByImage", "TestedByGroups"):
        folder = tmp_path_factory.mktemp(name)
        run = search(config(folder, name, train=Recipe(epochs=1), budget=3, space="{init: plain}")).folder
        found[name] = confirm(run, top=1, seeds=2)
    return found


class TestConfirm:
    def test_without_a_test_function_nothing_is_trained(self, plain: Any, tmp_path: Path) -> None:
        run = shutil.copytree(plain.folder, tmp_path / "run")
        before = {file.name for file in run.rglob("*")}
        with pytest.raises(
            RunError, match="has no test function: there is nothing to confirm on but the validation"
        ) as no:
            confirm(run, seeds=2)
        assert "write test(network)" in str(no.value)
        new = {file.name for file in run.rglob("*")} - before
        assert all(name.startswith("study.db") for name in new)  # locks

    def test_a_function_of_that_name_with_other_arguments(self, tmp_path: Path) -> None:
        run = search(config(tmp_path, "silent", input_shape="1,8,8", budget=1)).folder
        with pytest.raises(RunError, match="cannot be called: missing a required argument: 'loader'"):
            confirm(run, seeds=2)

    def test_values_are_those_of_the_test_function(self, tested: dict[str, Any]) -> None:
        values = [{n.key: n.test.values for n in c.networks} for c in tested.values()]
        assert values[0] == values[1]
        for key, by_seed in values[2].items():  # a mean is its own jackknife estimate
            assert by_seed == pytest.approx(values[0][key])

    def test_one_number_says_nothing_of_other_images(self, tested: dict[str, Any]) -> None:
        one, by_image, by_groups = tested.values()
        assert one.noise.image_sd is None
        assert "hold for exactly these images" in " ".join(s.text for s in one.verdict.sentences)
        assert (one.test_images, by_image.test_images, by_groups.test_images) == (0, 40, 0)
        for other in (by_image, by_groups):
            assert other.noise.image_sd > 0
            assert "these very images" not in " ".join(s.text for s in other.verdict.sentences)
        assert by_groups.noise.image_sd == pytest.approx(by_image.noise.image_sd, rel=0.5)

    def test_one_network_for_good(self, tmp_path: Path) -> None:
        given = TrainConfig(placement="all:16", backbone=Target(target="resnet8"), trainer=of_loop("Tested"),
                            train=Recipe(epochs=1), executor=Target(target="inline"), device="cpu",
                            out=str(tmp_path / "a"))  # fmt: skip
        done = train_placement(given)
        assert set(done.test) == {"test_accuracy"}
        done = train_placement(replace(given, trainer=of_loop("Plain"), out=str(tmp_path / "b")))
        assert (done.test, done.note) == ({}, "the trainer has no test function")


class TestExport:
    def test_proofs_on_noise_or_on_images_of_the_trainer(self, plain: Any, tmp_path: Path) -> None:
        done = export(plain, select="baseline", to=tmp_path / "a")
        assert [p.real for p in done.proofs] == [False]
        card = (done.folder / "README.md").read_text()
        assert "32 images of random noise" in card
        assert "training: 2 epochs, by the loop `loops.py:Plain`" in card
        run = search(config(tmp_path, "TestedByImage", train=Recipe(epochs=1), budget=1)).folder
        done = export(run, select="baseline", to=tmp_path / "c")
        assert [(p.real, p.images) for p in done.proofs] == [(True, 30)]

    def test_int8_needs_images(self, plain: Any, tmp_path: Path) -> None:
        pytest.importorskip("onnxruntime", reason="int8 needs it")
        with pytest.raises(RunError, match="int8 needs images to calibrate with"):
            export(plain, select="baseline", formats="onnx-int8", to=tmp_path / "a")
