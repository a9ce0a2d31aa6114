"""Exports: every file proven equal in a process of its own, and nothing left of those that are not."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers import tiny
from safetensors.torch import load_file, save_file

import se_nas
from se_nas.cli import main
from se_nas.commands.export import Export
from se_nas.commands.results import SearchResult, existing_run, stored
from se_nas.core.errors import ConfigError, DataError, RunError
from se_nas.core.serialization import from_json
from se_nas.core.trial import Target
from se_nas.data.base import DataInfo
from se_nas.data.datamodule import describe_module
from se_nas.data.store import open_source
from se_nas.exports.bundle import Exported
from se_nas.exports.formats import FORMATS, write_format
from se_nas.exports.images import part_images
from se_nas.exports.proof import observe, prove
from se_nas.exports.writers import Job

NET = """
import time
import torch
from torch import nn
from shipped_width import WIDTH

DRAWN = 2 + torch.rand((), generator=torch.Generator().manual_seed(time.time_ns() % 2**63)).item()

class Net(nn.Module):
    def __init__(self, num_classes, in_channels, trap=""):
        super().__init__()
        self.trap = trap
        if trap == "operator":  # its cost is not known either
            from se_nas.space.operations import HANDLES
            HANDLES["aten::i0"] = HANDLES["aten::relu"]
        self.a = nn.Conv2d(in_channels, WIDTH, 3)
        self.b = nn.Conv2d(WIDTH, WIDTH, 3)
        self.fc = nn.Linear(WIDTH, num_classes)
    def forward(self, x):
        x = torch.relu(self.b(torch.relu(self.a(x))))
        if self.trap == "operator":
            x = torch.special.i0(x.clamp(max=1))
        if self.trap == "pooling":
            x = nn.functional.adaptive_max_pool2d(x, 2)
        if self.trap == "branch":
            x = x if len(x) == 2 else DRAWN * x
        x = self.fc(x.mean((2, 3)))
        return {"aux": x.detach(), "out": x} if self.trap == "dictionary" else x
"""


def searched(folder: Path, trap: str = "", **changes: Any) -> SearchResult:
    """A tiny search of a user's own network that resists export in a chosen way."""
    code = folder / "code"
    code.mkdir(exist_ok=True)
    (code / "shipped_width.py").write_text("WIDTH = 16\n")
    (code / "net.py").write_text(NET)
    backbone = Target(target=f"{code / 'net.py'}:Net", args={"trap": trap})
    return se_nas.search(tiny(folder, backbone=backbone, **{"budget": 2, "keep_weights": "all", **changes}))


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return searched(tmp_path_factory.mktemp("mine"))


@pytest.fixture(scope="module")
def unfinished(mine: SearchResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run, in which a third trial is still running."""
    folder = tmp_path_factory.mktemp("unfinished") / "run"
    shutil.copytree(mine.folder, folder)
    study = existing_run(folder, read_only=False)[1]
    study.start(study.ask_nothing(), replace(study.trials()[1], number=-1, state="running", role="", metrics={}))
    return folder


def make_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_network_of_a_users_own_file(mine: SearchResult, tmp_path: Path) -> None:
    target = tmp_path / "shipped"
    done = se_nas.export(
        mine, select="reference", formats="python, onnx,python,onnx-int8", to=target, license="apache-2.0",
        opset=18, max_drop=1.0,
    )  # fmt: skip
    assert done.folder == target
    *exact, int8 = done.proofs
    assert [proof.format for proof in done.proofs] == ["safetensors", "python", "onnx", "onnx-int8"]
    for proof in exact:
        assert proof.difference <= 1e-4 * max(1.0, proof.scale)
        assert proof.agreement == 1.0
        assert proof.accuracy == proof.trained_accuracy
        assert proof.images == 357
        assert proof.bytes == (target / proof.file).stat().st_size
        low, high = proof.latency.interval
        assert 0 < low <= proof.latency.value <= high
    # In float32 the network was trained and validated: the accuracy is the recorded one.
    recorded = done.record.metrics["val_accuracy"].value
    assert done.proofs[0].accuracy == pytest.approx(recorded, abs=1e-6)
    assert names(tmp_path) == ["shipped"]
    assert json.loads((target / "proof.json").read_text())[2]["format"] == "onnx"
    card = (target / "README.md").read_text()
    assert f"| {100 * int8.accuracy:.2f} % ({100 * int8.trained_accuracy:.2f} %) |" in card
    assert json.loads((target / "proof.json").read_text())[3]["accuracy"] == int8.accuracy
    for text in ("license: \"apache-2.0\"", "| `network.onnx` |", "network.load()", "(image - mean) / std",
                 "357 validation", "trial 1", f"{100 * done.proofs[0].accuracy:.2f} %"):  # fmt: skip
        assert text in card, text
    _onnx_says_what_it_is(target / "network.onnx", done)
    assert not [path for path in target.rglob("*") if path.name == "__pycache__"]
    _runs_elsewhere(target, tmp_path)


def _runs_elsewhere(target: Path, folder: Path) -> None:
    """The Python file, moved away from the user's code, in a process that has no se-nas."""
    target.rename(folder / "moved")
    images = torch.randn(2, 1, 8, 8)
    np.save(folder / "images.npy", images.numpy())
    code = (
        "import sys; sys.modules['se_nas'] = None; sys.path.insert(0, 'moved')\n"
        "import network, numpy, torch\n"
        "x = torch.from_numpy(numpy.load('images.npy'))\n"
        "numpy.save('outputs.npy', network.load()(x).detach().numpy())"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = se_nas.load(folder / "moved")(images).detach().numpy()
    np.testing.assert_allclose(np.load(folder / "outputs.npy"), expected, atol=1e-6)


def _onnx_says_what_it_is(file: Path, done: Export) -> None:
    assert "torch" not in done.proofs[2].versions  # onnxruntime alone ran it
    assert b".py" not in file.read_bytes()  # no stack trace with the paths of this machine
    model = onnx.load(file)
    assert model.opset_import[0].version == 18
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param  # any batch size
    described = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(described["std"]) == pytest.approx(done.record.std)


@pytest.mark.slow
def test_every_format(finished: Path, tmp_path: Path) -> None:
    done = se_nas.export(finished, formats=list(FORMATS), to=tmp_path / "all", max_drop=0.2)
    assert [proof.format for proof in done.proofs] == list(FORMATS)
    sizes = {proof.format: proof.bytes for proof in done.proofs}
    assert sizes["onnx-int8"] < sizes["onnx-half"] < sizes["onnx"]
    for proof in done.proofs:
        if not FORMATS[proof.format].exact:
            assert proof.trained_accuracy - proof.accuracy <= 0.2
            assert proof.difference > 1e-6
    with zipfile.ZipFile(tmp_path / "all" / "network.pt2") as archive:
        assert not [name for name in archive.namelist() if b"stack_trace" in archive.read(name)]
    extra = {"description.json": ""}
    torch.export.load(tmp_path / "all" / "network.pt2", extra_files=extra)
    assert json.loads(json.loads(extra["description.json"])["mean"]) == pytest.approx(done.record.mean)


class TestProofs:
    def test_a_mismatch_leaves_nothing(self, tmp_path: Path) -> None:
        """The network draws a number when its file is imported; the old export stays as it was."""
        result = searched(tmp_path, "branch")
        target = tmp_path / "out" / "x"
        shutil.copytree(result.folder / "best", target)
        before = {path.name: path.read_bytes() for path in target.iterdir()}
        with pytest.raises(RunError, match=r"model\.safetensors is not equal to the trained network") as caught:
            se_nas.export(result, to=target, force=True)
        assert "largest difference" in str(caught.value)
        # torch.export refuses a branch that depends on the number of images, and says so.
        with pytest.raises(RunError, match="cannot be written as pt2") as caught:
            se_nas.export(result, formats=["pt2"], to=target, force=True)
        assert "python and safetensors take every network" in str(caught.value)
        assert {path.name: path.read_bytes() for path in target.iterdir()} == before
        assert names(tmp_path / "out") == ["x"]

    def test_what_onnx_cannot_do(self, mine: SearchResult, tmp_path: Path) -> None:
        class Bessel(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.special.bessel_j0(x).mean((2, 3))

        record = from_json((mine.folder / "best" / "placement.json").read_bytes(), Exported)
        job = Job(network=Bessel(), record=record, folder=tmp_path, calibration=lambda: torch.zeros(1))
        with pytest.raises(RunError, match=r"ONNX has no operator for prims\.bessel_j0") as caught:
            write_format("onnx", job)
        assert "choose pt2 or python" in str(caught.value)

        class Wordless(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                raise KeyError

        with pytest.raises(RunError, match="cannot be written as pt2: KeyError: no reason is given"):
            write_format("pt2", replace(job, network=Wordless()))
        with pytest.raises(RunError, match=r"cannot be written (as onnx: .*|with ONNX )opset (version )?3"):
            write_format("onnx", replace(job, network=torch.nn.Identity(), opset=3))
        assert names(tmp_path) == []

    def test_an_operator_that_onnx_lacks(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        result = searched(tmp_path, "operator")
        assert main(["export", str(result.folder), "--format", "onnx", "--to", str(tmp_path / "out" / "x")]) == 2
        error = capsys.readouterr().err
        assert "ONNX has no operator for prims.bessel_i0, which this network uses" in error
        assert "choose pt2 or python" in error
        assert names(tmp_path / "out") == []

    def test_an_operator_that_onnx_can_do_without(self, tmp_path: Path) -> None:
        done = se_nas.export(searched(tmp_path, "pooling"), formats="onnx", to=tmp_path / "x")
        assert done.proofs[1].agreement == 1.0

    def test_a_network_that_gives_a_dictionary(self, tmp_path: Path) -> None:
        done = se_nas.export(searched(tmp_path, "dictionary"), formats="python", to=tmp_path / "x")
        assert [proof.accuracy for proof in done.proofs] == [done.proofs[0].trained_accuracy] * 2

    @pytest.mark.parametrize("name", ["safetensors", "python", "pt2", "onnx", "onnx-half", "onnx-int8"])
    def test_one_wrong_weight(self, mine: SearchResult, tmp_path: Path, name: str) -> None:
        """As a writer with a mistake leaves it: a weight of the last layer is another one in the file."""
        shutil.copytree(mine.folder / "best", tmp_path, dirs_exist_ok=True)
        record = from_json((tmp_path / "placement.json").read_bytes(), Exported)
        network = se_nas.load(tmp_path)
        trained = observe(
            network, part_images(mine.folder, stored(existing_run(mine.folder)[1], "data", DataInfo), "val")
        )
        wrong = copy.deepcopy(network)
        wrong.fc.bias.data[3] += 1 if FORMATS[name].exact else 100
        save_file(wrong.state_dict(), tmp_path / "model.safetensors")
        job = Job(network=wrong, record=record, folder=tmp_path, calibration=lambda: trained.data.images[:64])
        write_format(name, job)
        with pytest.raises(
            RunError, match="is not equal" if FORMATS[name].exact else "loses .* points|changes .* of the predic"
        ):
            prove(name, tmp_path, trained, make_folder(tmp_path / "workshop"))

    def test_weights_that_were_exchanged_since_the_training(
        self, mine: SearchResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = tmp_path / "run"
        shutil.copytree(mine.folder, run)
        file = run / "weights" / "0.safetensors"
        weights = load_file(file)
        weights["fc.weight"] = weights["fc.weight"].flip(0)
        save_file(weights, file)
        assert main(["export", str(run), "--select", "trial=0", "--to", str(run / "x")]) == 2
        error = capsys.readouterr().err
        assert "the weights in the run folder are not those that trial 0 was trained to: their accuracy" in error
        file.write_bytes(file.read_bytes()[:999])
        assert main(["export", str(run), "--select", "trial=0", "--to", str(run / "x")]) == 2
        assert "model.safetensors does not fit the network" in capsys.readouterr().err
        assert not [name for name in names(run) if "x" in name.split(".")]

    def test_other_data_than_in_the_search(self, mine: SearchResult, tmp_path: Path) -> None:
        shutil.copytree(mine.folder, tmp_path / "run")
        shutil.rmtree(tmp_path / "run" / "data")
        _, study = existing_run(tmp_path / "run")
        data = stored(study, "data", DataInfo)
        assert part_images(tmp_path / "run", data, "val").of == 357  # read again
        shutil.rmtree(tmp_path / "run" / "data")
        with pytest.raises(DataError, match="its checksum differs"):
            part_images(tmp_path / "run", replace(data, checksum="0"), "val")

    def test_too_many_images_become_a_fixed_choice(self, mine: SearchResult) -> None:
        _, study = existing_run(mine.folder)
        data = stored(study, "data", DataInfo)
        first, again = (part_images(mine.folder, data, "val", limit=50) for _ in range(2))
        assert torch.equal(first.images, again.images)
        assert (len(first.labels), first.of) == (50, 357)
        assert len(set(first.labels.tolist())) == 10
        assert len(part_images(mine.folder, data, "val", max_bytes=10 * 4 * 64).labels) == 10


class TestBadInput:
    def test_a_folder_that_is_no_export_is_never_replaced(self, mine: SearchResult, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("years")
        with pytest.raises(RunError, match="is there already and is not an export"):
            se_nas.export(mine, to=tmp_path, force=True)
        assert names(tmp_path) == ["thesis.tex"]

    @pytest.mark.parametrize(
        ("given", "message", "hint"),
        [
            (["onx"], "unknown format 'onx'", "did you mean 'onnx'?"),
            (["int8"], "unknown format 'int8'", "did you mean 'onnx-int8'?"),
        ],
    )
    def test_unknown_formats(self, mine: SearchResult, given: list[str], message: str, hint: str) -> None:
        with pytest.raises(ConfigError, match=message) as caught:
            se_nas.export(mine, formats=given)
        assert hint in str(caught.value)

    def test_missing_packages(self, mine: SearchResult, monkeypatch: pytest.MonkeyPatch) -> None:
        real = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "onnxruntime" else real(n))
        with pytest.raises(ConfigError, match="the format onnx needs onnxruntime, which is not installed") as caught:
            se_nas.export(mine, formats=["onnx"])
        assert "pip install 'se-nas[export]'" in str(caught.value)

    def test_weights_that_were_not_kept(self, finished: Path, tmp_path: Path) -> None:
        kept = {file.stem for file in (finished / "weights").iterdir()}
        other = next(n for n in range(8) if str(n) not in kept)
        with pytest.raises(RunError, match=f"the weights of trial {other} were not kept") as caught:
            se_nas.export(finished, select=f"trial={other}", to=tmp_path / "x")
        assert "se-nas train" in str(caught.value)
        assert ", ".join(sorted(kept, key=int)) in str(caught.value)
        assert not (tmp_path / "x").exists()

    def test_a_place_that_cannot_be_written(self, mine: SearchResult, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("no folder")
        with pytest.raises(RunError, match=r"cannot write '.*file/x': File exists"):
            se_nas.export(mine, select="baseline", to=tmp_path / "file" / "x")

    def test_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="is not a run folder"):
            se_nas.export(tmp_path)

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ("--select trial=2", ("trial 2 is not finished: its state is running", "se-nas train")),
            ("--select trial=77", ("has no trial '77'", "0 to 2")),
            ("--select recomended", ("select is 'recomended'", "did you mean 'recommended'?")),
            ("--select max-params=1", ("no trained network has params of at most 1", "the smallest has")),
            ("--select max-parms=1", ("no trial of the run has the cost 'parms'", "did you mean 'params'?")),
            ("--select max-params=lots", ("the limit of params is 'lots'",)),
            ("--select given", ("no finished training of the network as given",)),
            ("--format pt", ("unknown format 'pt'", "did you mean 'pt2'?")),
            ("--max-drop 7", ("max_drop is 7",)),
            ("--formt pt2", ("--formt",)),
            ("--opset many", ("opset",)),
        ],
    )
    def test_one_error_and_nothing_left(
        self, unfinished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, words: tuple[str, ...]
    ) -> None:
        assert main(["export", str(unfinished), *given.split(), "--to", str(tmp_path / "out" / "x")]) == 2
        shown = capsys.readouterr()
        assert all(word in shown.err for word in words), shown.err
        assert (shown.out, shown.err.count("Error:"), "Traceback" in shown.err) == ("", 1, False)
        assert names(tmp_path) == []

    def test_on_the_command_line(self, mine: SearchResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        target = tmp_path / "x"
        target.mkdir()  # an empty folder is no loss
        command = ["export", str(mine.folder), "--to", str(target)]
        assert main([*command, "--select", "baseline"]) == 0
        out = capsys.readouterr().out
        assert "Proven on 357 validation images" in out
        assert "model.safetensors" in out
        assert re.match(r"Exported: no SE \(trial \d+\), .*[\d,]+ parameters", out)
        assert out.splitlines()[-1] == str(target)
        before = {path.name: path.read_bytes() for path in target.iterdir()}
        assert main([*command, "--select", "reference"]) == 2
        assert "--force to replace it" in capsys.readouterr().err
        assert {path.name: path.read_bytes() for path in target.iterdir()} == before
        assert main([*command, "--select", "reference", "--force", "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert content["proofs"][0]["difference"] < 1e-6
        assert content["costs"]["params"]["value"] > 0
        assert (content["placement"], content["key"]) == ("all:16", mine.summary.references["reference"].key)
        assert (target / "placement.json").read_bytes() != before["placement.json"]
        assert names(tmp_path) == ["x"]


HOOKS = """
import pytorch_lightning as pl, torch
from torch.utils.data import DataLoader

class Hooked(pl.LightningDataModule):
    num_classes = 2
    def __init__(self, named=False):
        super().__init__()
        self.named = named
    def setup(self, stage):
        assert stage == "fit"
        label = str if self.named else int
        self.rows = [{"image": torch.full((1, 4, 4), 10.0 * i), "label": label(i)} for i in range(30)]
    def train_dataloader(self):
        return DataLoader(self.rows, 8)
    def val_dataloader(self):
        return [DataLoader(self.rows[:10], 8), DataLoader(self.rows, 8)]
    def on_after_batch_transfer(self, batch, index):
        sign = -1 if self.trainer.training else 1
        return {**batch, "image": sign * batch["image"] / 10}
"""


def test_images_of_a_data_module_are_what_its_hooks_make_of_them(tmp_path: Path) -> None:
    file = tmp_path / "hooked.py"
    file.write_text(HOOKS)
    target = Target(target=f"{file}:Hooked")
    info = describe_module(open_source(target)[0], target)
    val = part_images(tmp_path, info, "val")
    assert val.images[:, 0, 0, 0].tolist() == list(range(10))
    assert (val.labels.tolist(), val.of) == (list(range(10)), 10)
    train = part_images(tmp_path, info, "train", limit=12)
    assert train.images[:, 0, 0, 0].tolist() == list(range(12))
    named = replace(info, target=replace(target, args={"named": True}))
    assert part_images(tmp_path, named, "val").labels.numel() == 0


@pytest.mark.slow
def test_images_of_a_data_module(tmp_path: Path) -> None:
    module = tmp_path / "own_data.py"
    module.write_text(
        "import pytorch_lightning as pl, torch\n"
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "class Own(pl.LightningDataModule):\n"
        "    num_classes = 3\n"
        "    def setup(self, stage):\n"
        "        g = torch.Generator().manual_seed(0)\n"
        "        y = torch.arange(90) % 3\n"
        "        x = torch.randn(90, 3, 8, 8, generator=g) + y.reshape(-1, 1, 1, 1)\n"
        "        self.set = TensorDataset(x, y)\n"
        "    def train_dataloader(self):\n"
        "        return DataLoader(self.set, 16, shuffle=True)\n"
        "    def val_dataloader(self):\n"
        "        return DataLoader(self.set, 32)\n"
    )
    result = se_nas.search(tiny(tmp_path, data=Target(target=f"{module}:Own"), budget=2, keep_weights="all"))
    done = se_nas.export(result, formats=["pt2", "onnx-int8"], to=tmp_path / "x", max_drop=1.0)
    assert done.proofs[0].images == 90
    assert done.proofs[0].accuracy == pytest.approx(done.record.metrics["val_accuracy"].value, abs=1e-6)
    assert "as the data module of the search gives them" in (tmp_path / "x" / "README.md").read_text()
