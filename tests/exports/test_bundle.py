"""Networks that leave a run: the same output when they come back, and nothing that is a pickle."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny

import se_nas
from se_nas.commands.results import existing_run
from se_nas.commands.search import search
from se_nas.core.errors import PluginError, RunError, SpaceError
from se_nas.core.placement import Unit
from se_nas.core.serialization import from_plain
from se_nas.core.trial import Target
from se_nas.data.store import open_part, read_info
from se_nas.exports.bundle import export_trial

NET = """
from torch import nn
from neighbour import WIDTH

class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.a = nn.Conv2d(in_channels, WIDTH, 3)
        self.b = nn.Conv2d(WIDTH, WIDTH, 3)
        self.fc = nn.Linear(WIDTH, num_classes)
    def forward(self, x):
        return self.fc(self.b(self.a(x).relu()).relu().mean((2, 3)))
    def se_units(self):
        return {"a": "a", "b": "b"}
"""


def accuracy(network: torch.nn.Module, run: Path, placement: dict) -> float:
    """Share of validation images that a loaded network finds, with the normalisation that its file gives."""
    val = open_part(run, "val")
    shape = (1, -1, 1, 1)
    images = torch.from_numpy(np.array(val.images)).float()
    images = (images - torch.tensor(placement["mean"]).reshape(shape)) / torch.tensor(placement["std"]).reshape(shape)
    with torch.no_grad():
        return float((network(images).argmax(1).numpy() == val.labels).mean())


class TestLoad:
    def test_best_gives_the_output_of_the_training(self, finished: Path) -> None:
        network = se_nas.load(finished / "best")
        content = json.loads((finished / "best" / "placement.json").read_text())
        assert not network.training
        assert accuracy(network, finished, content) == pytest.approx(content["metrics"]["val_accuracy"]["value"])

    def test_every_network_on_the_front(self, finished: Path, tmp_path: Path) -> None:
        run, study = existing_run(finished)
        units = from_plain(study.facts["space"]["units"], tuple[Unit, ...])
        trials = {trial.number: trial for trial in study.trials()}
        for file in sorted((finished / "weights").iterdir()):
            folder = export_trial(
                run.path, trials[int(file.stem)], tmp_path / file.stem,
                backbone=Target(target="resnet8"), units=units, data=read_info(finished),
            )  # fmt: skip
            content = json.loads((folder / "placement.json").read_text())
            network = se_nas.load(str(folder))
            assert accuracy(network, finished, content) == pytest.approx(content["metrics"]["val_accuracy"]["value"])
            blocks = [n for n, _ in network.named_modules() if n.endswith("se_block")]
            chosen = [n for n, c in content["placement"]["choices"].items() if c["kind"] == "se"]
            assert len(blocks) == len(chosen)

    def test_a_backbone_from_a_file(self, tmp_path: Path) -> None:
        code = tmp_path / "code"
        code.mkdir()
        (code / "neighbour.py").write_text("WIDTH = 24\n")
        (code / "net.py").write_text(NET)
        result = search(tiny(tmp_path, backbone=Target(target=f"{code / 'net.py'}:Net"), budget=2))
        content = json.loads((result.folder / "best" / "placement.json").read_text())
        network = se_nas.load(result.folder / "best")
        assert accuracy(network, result.folder, content) == pytest.approx(content["metrics"]["val_accuracy"]["value"])
        assert (result.folder / "best" / "net.py").read_text() == NET

    def test_a_backbone_from_a_file_that_is_gone(self, tmp_path: Path) -> None:
        code = tmp_path / "code"
        code.mkdir()
        plain = NET.replace("from neighbour import WIDTH", "WIDTH = 24")
        (code / "net.py").write_text(plain)
        result = search(tiny(tmp_path, backbone=Target(target=f"{code / 'net.py'}:Net"), budget=2))
        x = torch.randn(4, *read_info(result.folder).input_shape)
        expected = se_nas.load(result.folder / "best")(x)
        shutil.move(code, tmp_path / "moved")
        shutil.move(result.folder / "best", tmp_path / "shipped")
        with pytest.raises(PluginError, match=r"shipped/net\.py:Net"):  # the copy is not what was named
            se_nas.load(tmp_path / "shipped")
        assert torch.equal(se_nas.load(tmp_path / "shipped", trust=True)(x), expected)

    def test_nothing_is_a_pickle(self, finished: Path) -> None:
        for file in finished.rglob("*"):
            if file.is_file():
                assert not zipfile.is_zipfile(file), file
                assert not file.read_bytes().startswith(b"\x80"), file
                assert file.suffix not in (".pt", ".pth", ".pkl", ".ckpt"), file
        for file in (finished / "data").glob("*.npy"):
            np.load(file, allow_pickle=False)


class TestErrors:
    @pytest.fixture
    def best(self, finished: Path, tmp_path: Path) -> Path:
        shutil.copytree(finished / "best", tmp_path / "best")
        return tmp_path / "best"

    def test_missing_files(self, best: Path, tmp_path: Path) -> None:
        (best / "model.safetensors").unlink()
        with pytest.raises(RunError, match=r"has no model\.safetensors") as caught:
            se_nas.load(best)
        assert "such as RUN/best" in str(caught.value)
        with pytest.raises(RunError, match=r"has no placement\.json"):
            se_nas.load(tmp_path / "nowhere")

    def test_torn_weights(self, best: Path) -> None:
        file = best / "model.safetensors"
        file.write_bytes(file.read_bytes()[:1000])
        with pytest.raises(RunError, match=r"model\.safetensors does not fit the network"):
            se_nas.load(best)

    def test_weights_of_another_network(self, best: Path) -> None:
        content = json.loads((best / "placement.json").read_text())
        content["backbone"]["target"] = "resnet14"
        (best / "placement.json").write_text(json.dumps(content))
        with pytest.raises(RunError, match=r"model\.safetensors does not fit the network"):
            se_nas.load(best)

    def test_torn_placement(self, best: Path) -> None:
        (best / "placement.json").write_text("{")
        with pytest.raises(RunError, match="not valid JSON"):
            se_nas.load(best)

    def test_a_placement_of_another_backbone(self, best: Path) -> None:
        content = json.loads((best / "placement.json").read_text())
        content["placement"]["choices"]["stages.7"] = {"kind": "none"}
        (best / "placement.json").write_text(json.dumps(content))
        with pytest.raises(SpaceError, match=r"names unit 'stages\.7', which the backbone does not have") as caught:
            se_nas.load(best)
        assert "is it a placement of another backbone?" in str(caught.value)

    def test_a_newer_schema(self, best: Path) -> None:
        content = json.loads((best / "placement.json").read_text())
        (best / "placement.json").write_text(json.dumps({**content, "schema": 99}))
        with pytest.raises(RunError, match="schema version 99 is newer than this se-nas"):
            se_nas.load(best)


def test_a_file_of_the_first_version(finished: Path, tmp_path: Path) -> None:
    """Version 0.1.0 wrote neither data nor identity; its files load for good."""
    shutil.copytree(finished / "best", tmp_path / "best")
    file = tmp_path / "best" / "placement.json"
    first = ("schema", "key", "placement", "backbone", "units", "input_shape", "classes", "mean", "std", "trial",
             "metrics", "costs", "versions")  # fmt: skip
    content = json.loads(file.read_text())
    file.write_text(json.dumps({name: content[name] for name in first}))
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(se_nas.load(tmp_path / "best")(x), se_nas.load(finished / "best")(x))


def test_all_weights_can_be_kept(tmp_path: Path) -> None:
    result = search(tiny(tmp_path, budget=3, keep_weights="all"))
    numbers = set(result.trials[result.trials["counts"]]["trial"])
    assert {int(f.stem) for f in (result.folder / "weights").iterdir()} == numbers


def test_public_names() -> None:
    for name in se_nas.__all__:
        for _ in range(2):  # the second time the module of that name is imported
            assert callable(getattr(se_nas, name)) or name == "__version__", name
    with pytest.raises(AttributeError, match="attribute serach"):
        _ = se_nas.serach


def test_search_space_in_somebody_s_own_study(tmp_path: Path) -> None:
    import optuna
    from helpers import backbone_of

    model = backbone_of("resnet8", (3, 16, 16))
    space = se_nas.SearchSpace.from_model(model, input_shape=(3, 16, 16), space={"reductions": ["none", 4]})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    keys = set()

    def objective(trial: optuna.Trial) -> float:
        placement = space.suggest(trial)
        assert space.contains(placement)
        keys.add(placement.key)
        candidate = se_nas.insert_se(model, placement, input_shape=(3, 16, 16))
        return se_nas.cost(candidate, input_shape=(3, 16, 16)).params

    study.optimize(objective, n_trials=12)
    assert len(keys) > 4
    assert study.best_value >= sum(p.numel() for p in model.parameters())
