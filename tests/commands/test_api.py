"""The search from Python: settings by name, live objects, callbacks, and what its result offers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects
import pytest
import pytorch_lightning as pl
import torch
from helpers import backbone_of, run_python, tiny, write_npz
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import se_nas
from se_nas.backbones.resnet import resnet
from se_nas.core.config import SearchConfig
from se_nas.core.errors import ConfigError, PluginError, SpaceError
from se_nas.core.overrides import SearchSettings, configured, target_of
from se_nas.core.trial import Recipe, Target, Trial
from se_nas.data.npz import npz
from se_nas.training.classification import ClassificationModule


def quick(folder: Path, **settings: Any) -> Any:
    """A search of two trainings by settings alone."""
    return se_nas.search(**{
        "backbone": "resnet8", "space": {"reductions": ["none", 16]}, "executor": "inline", "device": "cpu",
        "epochs": 1, "batch_size": 256, "precision": "32", "budget": 2, "out": str(folder / "run"), **settings,
    })  # fmt: skip


class TestSettings:
    def test_they_are_those_of_the_command_line(self) -> None:
        config = configured(None, {"backbone": "resnet8", "data": {"target": "npz:a.npz", "args": {"num_classes": 2}},
                                   "epochs": 3, "lr": 0.2, "max_params": 1000, "budget": 7})  # fmt: skip
        assert config == SearchConfig(
            backbone=Target(target="resnet8"),
            data=Target(target="npz:a.npz", args={"num_classes": 2}),
            train=Recipe(epochs=3, lr=0.2),
            max=type(config.max)(params=1000),
            budget=7,
        )

    def test_a_configuration_with_changes(self, tmp_path: Path) -> None:
        base = tiny(tmp_path)
        assert configured(base, {}) == base
        changed = configured(base, {"epochs": 4, "train": {"lr": 0.3}})
        assert (changed.train.epochs, changed.train.lr, changed.train.batch_size) == (4, 0.3, 256)

    def test_an_editor_is_told_of_all_of_them(self) -> None:
        with pytest.raises(ConfigError) as caught:
            configured(None, {"no such setting": 1})
        assert caught.value.allowed == tuple(sorted(SearchSettings.__annotations__))

    def test_a_plug_in_by_its_arguments_alone(self, tmp_path: Path) -> None:
        base = configured(tiny(tmp_path), {"backbone": {"target": "resnet14", "args": {"width": 8}}})
        assert configured(base, {"backbone": {"args": {"depth": 20}}}).backbone == Target(
            target="resnet14", args={"depth": 20}
        )
        assert configured(base, {"backbone": "resnet8"}).backbone == Target(target="resnet8")

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"train": {"epoch": 3}}, "unknown key 'train.epoch'"),
            ({"backbone": {"taget": "resnet8"}}, "did you mean 'target'?"),
            ({"max_params": "few"}, "max_params is 'few'\n  allowed: a number"),
            ({"max": 3}, "max is 3\n  allowed: a mapping"),
            ({"augment": "blur"}, "allowed: none, shift, shift-flip"),
            ({"measure": "latency"}, "measure is 'latency'\n  allowed: a list"),
            ({"bugdet": 3}, "did you mean 'budget'"),
            ({"budget": "many"}, "budget is 'many'\n  allowed: a whole number"),
            ({"budget": 0}, "budget is 0"),
            ({"epochs": 0}, "epochs is 0"),
        ],
    )
    def test_wrong_ones(self, settings: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigError) as caught:
            se_nas.search(**settings)
        assert words in str(caught.value)


def factory(num_classes: int = 10, in_channels: int = 1) -> nn.Module:
    return resnet(depth=8, num_classes=num_classes, in_channels=in_channels)


class Module(pl.LightningDataModule):
    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        labels = torch.arange(64) % 2
        self.data = TensorDataset(torch.randn(64, 1, 8, 8) + labels.reshape(-1, 1, 1, 1), labels)

    def train_dataloader(self) -> Any:
        return DataLoader(self.data, batch_size=32)

    val_dataloader = train_dataloader


class TestObjects:
    def test_what_can_be_imported_goes_by_its_path(self) -> None:
        assert target_of("backbone", factory) == Target(target="test_api:factory")
        assert target_of("data", Module) == Target(target="test_api:Module")

    def test_a_network_a_data_module_and_a_class_within_a_function(self, tmp_path: Path) -> None:
        class Own(ClassificationModule):
            metric = "val_accuracy"
            direction = "maximize"

            def __init__(self, network: nn.Module, recipe: Recipe, steps: int) -> None:
                super().__init__(network, recipe, steps=steps, class_counts=None)

        model = backbone_of("resnet8", seed=3)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        settings = {"backbone": model, "data": Module(), "task": Own, "executor": None}
        result = quick(tmp_path, **{k: v for k, v in settings.items() if v is not None})
        assert list(result.trials["state"]) == ["complete"] * 2
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert quick(tmp_path, **{**settings, "executor": "inline", "budget": 3}).trials["counts"].sum() == 3
        assert result.network()(torch.zeros(1, 1, 8, 8)).shape == (1, 2)

    def test_a_source(self, tmp_path: Path) -> None:
        result = quick(tmp_path, data=npz(str(write_npz(tmp_path / "a.npz"))), budget=1)
        assert list(result.trials["state"]) == ["complete"]

    def test_the_inline_executor_is_chosen_for_them(self) -> None:
        assert configured(None, {"backbone": nn.Linear(1, 1)}).executor == Target(target="inline")
        assert configured(None, {"backbone": lambda: None}).executor == Target(target="inline")
        assert configured(None, {"backbone": factory}).executor == Target(target="local")

    def test_they_cannot_go_to_workers(self) -> None:
        with pytest.raises(ConfigError, match="backbone is an object of this process") as caught:
            configured(None, {"backbone": nn.Linear(1, 1), "executor": "local"})
        assert "executor='inline'" in str(caught.value)

    def test_nor_can_those_of_a_configuration(self) -> None:
        base = configured(None, {"data": Module()})
        with pytest.raises(ConfigError, match="data is an object of this process"):
            configured(base, {"executor": "ray"})

    def test_an_object_of_another_process(self, tmp_path: Path) -> None:
        with pytest.raises(PluginError, match="was an object of another Python process"):
            quick(tmp_path, backbone="live:Nowhere")

    @pytest.mark.slow
    def test_a_script_without_a_main_guard(self, tmp_path: Path) -> None:
        (tmp_path / "script.py").write_text(
            "import se_nas\n"
            "from se_nas.backbones.resnet import resnet\n"
            "def mine(num_classes=10, in_channels=1):\n"
            "    return resnet(depth=8, num_classes=num_classes, in_channels=in_channels)\n"
            "result = se_nas.search(backbone=mine, budget=2, epochs=1, batch_size=512, out='run')\n"
            "print('searched', len(result.trials))\n"
        )
        done = run_python("script.py", cwd=tmp_path)
        assert done.stdout.count("searched 2") == 1, done.stderr


class TestCallback:
    def test_it_sees_every_trial_and_may_stop(self, tmp_path: Path) -> None:
        seen: list[Trial] = []

        def on_trial(trial: Trial) -> str | None:
            seen.append(trial)
            return "stop" if len(seen) == 2 else None

        result = quick(tmp_path, budget=8, on_trial=on_trial)
        assert [trial.number for trial in seen] == [0, 1]
        assert all(trial.metrics["val_accuracy"].value >= 0 for trial in seen)
        assert result.ended == "stopped by on_trial after trial 1"
        assert len(quick(tmp_path, budget=3).trials) == 3

    def test_an_error_in_it_ends_the_search_and_loses_nothing(self, tmp_path: Path) -> None:
        def on_trial(trial: Trial) -> None:
            raise ZeroDivisionError("mine")

        with pytest.raises(ZeroDivisionError, match="mine"):
            quick(tmp_path, on_trial=on_trial)
        assert list(quick(tmp_path).trials["state"]) == ["complete"] * 2


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return quick(tmp_path_factory.mktemp("result"), budget=3)


class TestResult:
    def test_tables(self, result: Any) -> None:
        assert isinstance(result.front, pd.DataFrame)
        assert isinstance(result.trials, pd.DataFrame)
        assert result.best["trial"] in set(result.front["trial"])

    def test_plot(self, result: Any) -> None:
        """The points are those of the tables, and a cost without SE is 0 %."""
        figure = result.plot()
        assert isinstance(figure, plotly.graph_objects.Figure)
        points = figure.data[0]
        assert points.name == "one training (3)"
        assert sorted(points.y) == pytest.approx(sorted(100 * result.trials["metric"]))
        base = result.trials.set_index("role").loc["baseline", "gflops"]
        assert sorted(points.x) == pytest.approx(sorted(100 * (result.trials["gflops"] / base - 1)))
        assert "@" not in figure.to_json().replace("latency@", "")
        assert [row[0] for row in points.customdata] == [p.replace(",", ", ") for p in result.trials["placement"]]
        params = result.plot("params")
        assert params.layout.xaxis.title.text.startswith("parameters ")
        assert "plotly" in params._repr_html_()

    def test_a_cost_that_no_trial_has(self, result: Any) -> None:
        with pytest.raises(ConfigError, match="cost is 'parms'") as error:
            result.plot("parms")
        assert error.value.hint == "did you mean 'params'?"

    def test_notebook(self, result: Any) -> None:
        shown = result._repr_html_()
        assert shown.count("<svg") == 1
        assert "<table" in shown
        assert "the budget of 3 trainings is spent" in shown

    def test_networks(self, result: Any) -> None:
        best, baseline = result.network(), result.network("baseline")
        assert best(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
        assert not baseline.training


# The user's own study: each piece alone


class Segmenter(nn.Module):
    """An encoder, a decoder and a skip between them."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
        self.low = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.out = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        high = self.down(x)
        return {"mask": self.head(self.out(torch.cat([high, self.up(self.low(high))], 1)))}


class TestInsertion:
    @pytest.mark.parametrize(
        ("given", "text"),
        [
            ("layer2=16,layer3=8", "stage2=16,stage3=8"),
            ({"layer2": 16, "layer3.0": 8.0}, "stage2=16,stage3=8"),
            ({"stage2": 16, "layer3": "8:identity"}, "stage2=16,stage3=8:identity"),
            ("all:2", "stage1=2,stage2=2,stage3=2"),
            ("layer1=none", "none"),
            ({}, "none"),
        ],
    )
    def test_a_placement_as_text_or_mapping(self, given: Any, text: str) -> None:
        model, shape = backbone_of("resnet8"), (1, 8, 8)
        placement = se_nas.SearchSpace.from_model(model, input_shape=shape).parse(text)
        made = [se_nas.insert_se(model, each, input_shape=shape, seed=5).state_dict() for each in (given, placement)]
        assert made[0].keys() == made[1].keys()
        assert all(torch.equal(value, made[1][name]) for name, value in made[0].items())
        assert len(made[0]) - len(model.state_dict()) == 2 * sum(c.kind == "se" for c in placement.choices.values())

    def test_a_narrow_network_takes_what_its_width_allows(self) -> None:
        network = se_nas.insert_se(Segmenter(), "all:8", input_shape=(1, 16, 16))
        assert any(name.endswith("se_block") for name, _ in network.named_modules())

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ("layer4=16", ("no stage or unit 'layer4'", "stage1, stage2, stage3", "did you mean 'layer")),
            ({"stag3": 16}, ("no stage or unit 'stag3'", "did you mean 'stage3'?")),
            ("16", ("cannot read the placement '16'", "all:R, STAGE=R")),
            ("all:128", ("leaves a hidden width of 0 at 16 channels",)),
            ({"stage1": None}, ("'None' is neither a reduction nor a block",)),
        ],
    )
    def test_a_wrong_one(self, given: Any, words: tuple[str, ...]) -> None:
        with pytest.raises(SpaceError) as caught:
            se_nas.insert_se(backbone_of("resnet8"), given, input_shape=(1, 8, 8))
        assert all(word in str(caught.value) for word in words), caught.value


class TestOwnStudy:
    def test_four_lines_beside_other_hyperparameters(self) -> None:
        import optuna

        model, shape = Segmenter(), (1, 16, 16)
        images = torch.randn(8, *shape)
        masks = (images[:, 0] > 0).long()
        space = se_nas.SearchSpace.from_model(model, input_shape=shape, space={"reductions": ["none", 4, 2]})

        def objective(trial: optuna.Trial) -> tuple[float, float]:
            lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
            placement = space.suggest(trial)
            candidate = se_nas.insert_se(model, placement, input_shape=shape)
            optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[
                trial.suggest_categorical("optimizer", ["sgd", "adam"])
            ](candidate.parameters(), lr=lr)
            for _ in range(2):
                optimizer.zero_grad()
                loss = functional.cross_entropy(candidate(images)["mask"], masks)
                loss.backward()
                optimizer.step()
            return loss.item(), se_nas.cost(candidate, input_shape=shape).params

        study = optuna.create_study(
            directions=["minimize", "minimize"], sampler=optuna.samplers.NSGAIISampler(seed=0, population_size=4)
        )
        study.optimize(objective, n_trials=6)
        assert len(study.trials) == 6
        assert all(trial.params.keys() == {"lr", "optimizer", *space.parameters} for trial in study.trials)
        base = se_nas.cost(model, input_shape=shape).params
        assert min(trial.values[1] for trial in study.trials) >= base

    def test_the_known_cost_sampler_beside_other_hyperparameters(self) -> None:
        """It proposes the placement; what it does not know, it draws at random."""
        import optuna

        model, shape = Segmenter(), (1, 16, 16)
        space = se_nas.SearchSpace.from_model(model, input_shape=shape, space={"reductions": ["none", 4, 2]})

        def cost_of(placement: Any) -> float:
            return float(se_nas.cost(se_nas.insert_se(model, placement, input_shape=shape), input_shape=shape).params)

        def price(params: dict[str, Any]) -> float:
            return cost_of(space.from_params(params))

        sampler = se_nas.KnownCostSampler(space.distributions, price, seed=0)
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)

        def objective(trial: optuna.Trial) -> tuple[float, float]:
            placement = space.suggest(trial)
            return 1.0 - trial.suggest_float("lr", 0.0, 1.0), cost_of(placement)

        study.optimize(objective, n_trials=5)
        seen = [tuple(trial.params[name] for name in space.parameters) for trial in study.trials]
        assert len(set(seen)) == 5
        assert all(cost_of(space.from_params(trial.params)) == trial.values[1] for trial in study.trials)
        assert len({trial.params["lr"] for trial in study.trials}) == 5
        assert np.isfinite([trial.values for trial in study.trials]).all()

    def test_parameters_are_levels_counted_among_those_that_may_be_proposed(self) -> None:
        model = Segmenter()
        usual = se_nas.SearchSpace.from_model(model, input_shape=(1, 16, 16))
        without = se_nas.SearchSpace.from_model(model, input_shape=(1, 16, 16), space={"reductions": [4, 2]})
        assert all(usual.from_params(levels).key == usual.placement(levels).key for levels in usual.levels())
        assert without.from_params(dict.fromkeys(without.parameters, 0)).key == without.parse("all:4").key
        assert {(d.low, d.high) for d in without.distributions.values()} == {(0, 1)}

    def test_parameters_that_are_none_of_the_space(self) -> None:
        space = se_nas.SearchSpace.from_model(Segmenter(), input_shape=(1, 16, 16), space={"reductions": ["none", 4]})
        first = next(iter(space.parameters))
        with pytest.raises(SpaceError, match="is None"):
            space.from_params({"lr": 0.1})
        with pytest.raises(SpaceError, match=f"{first!r} is 7"):
            space.from_params(dict.fromkeys(space.parameters, 7))
        assert space.from_params({**dict.fromkeys(space.parameters, 0), "lr": 0.1}).key == space.baseline.key
