"""Starting from a checkpoint: what is read, what is made to fit, what is refused, and what a search makes of it."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from helpers import DIGITS, backbone_of, tiny, write_npz
from torch import Tensor, nn

from se_nas.backbones.adapt import adapt_input
from se_nas.backbones.weights import fit_weights, read_checkpoint, read_weights, weights_checksum
from se_nas.commands.search import search
from se_nas.core.config import SearchConfig
from se_nas.core.errors import BackboneError
from se_nas.core.trial import Recipe, Target
from se_nas.engine.problem import prepare
from se_nas.space.search_space import insert_se
from se_nas.space.space import Space
from se_nas.space.spec import read_space

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return backbone_of("resnet8", seed=5).state_dict()


def fit(state: Mapping[str, Tensor], model: nn.Module | None = None, classes: int = 10) -> Any:
    return fit_weights(model or backbone_of("resnet8"), dict(state), num_classes=classes, where="the file")


def safe(state: State, file: Path) -> Path:
    safetensors.torch.save_file({name: value.contiguous() for name, value in state.items()}, file)
    return file


def torch_file(content: Any, file: Path) -> Path:
    torch.save(content, file)
    return file


class TestReading:
    @pytest.mark.parametrize(
        "write",
        [
            lambda s, d: safe(s, d / "w.safetensors"),
            lambda s, d: torch_file(s, d / "w.pt"),
            lambda s, d: torch_file({"state_dict": s, "epoch": 3, "optimizer": {"lr": 0.1}}, d / "w.ckpt"),
            lambda s, d: torch_file({"model": {"state_dict": s}}, d / "w.pth"),
        ],
        ids=["safetensors", "state dict", "checkpoint", "nested twice"],
    )
    def test_every_form_holds_the_same_tensors(
        self, write: Callable[[State, Path], Path], state: State, tmp_path: Path
    ) -> None:
        found = read_weights(write(state, tmp_path))
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], state[name]) for name in state)

    def test_a_checkpoint_of_lightning(self, tmp_path: Path, state: State) -> None:
        import pytorch_lightning as pl

        class Module(pl.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.save_hyperparameters({"lr": 0.1})
                self.model = backbone_of("resnet8", seed=5)

        module = Module()
        trainer = pl.Trainer(max_epochs=0, logger=False, enable_checkpointing=False, accelerator="cpu",
                             enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
        trainer.strategy.connect(module)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        fitted = fit(read_weights(tmp_path / "last.ckpt"))
        assert all(torch.equal(fitted.weights[name], value) for name, value in state.items())
        assert fitted.notes == ("names without the prefix 'model.'",)

    def test_a_checkpoint_of_timms_training_script(self, state: State, tmp_path: Path) -> None:
        """It keeps its arguments as a Namespace, and averaged weights beside the last ones."""
        averaged = {name: value + 1 for name, value in state.items()}
        arguments = argparse.Namespace(model="resnet18", lr=0.1, mean=None, aa=["rand", 9])
        content = {
            "epoch": 3, "arch": "resnet18", "state_dict": state, "version": 2, "args": arguments, "metric": 71.5,
            "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
            "amp_scaler": {"scale": 65536.0}, "state_dict_ema": averaged,
        }  # fmt: skip
        file = torch_file(content, tmp_path / "last.pth.tar")
        last = read_checkpoint(str(file))
        assert torch.equal(last.weights["conv1.weight"], state["conv1.weight"])
        assert last.notes == ("state_dict is taken, not state_dict_ema: last.pth.tar#state_dict_ema takes that",)
        mean = read_checkpoint(f"{file}#state_dict_ema")
        assert torch.equal(mean.weights["conv1.weight"], averaged["conv1.weight"])
        assert mean.notes == ()
        with pytest.raises(BackboneError, match="no weights named 'state_dict_em' in") as caught:
            read_checkpoint(f"{file}#state_dict_em")
        assert caught.value.hint == "did you mean 'state_dict_ema'?"
        assert caught.value.allowed == ("state_dict", "state_dict_ema")

    def test_a_file_whose_name_has_the_sign(self, state: State, tmp_path: Path) -> None:
        file = torch_file(state, tmp_path / "run#3.pt")
        assert read_checkpoint(str(file)).weights.keys() == state.keys()
        with pytest.raises(BackboneError, match=r"no weights named 'x' in '.*run#3.pt'"):
            read_checkpoint(f"{file}#x")

    def test_a_search_says_which_weights_it_took(self, tmp_path: Path) -> None:
        state = backbone_of("resnet8", seed=5).state_dict()
        file = torch_file({"model": state, "model_ema": state}, tmp_path / "w.pth")
        problem = prepare(tiny(tmp_path, weights=str(file)), tmp_path / "run")
        assert "weights: model is taken, not model_ema: w.pth#model_ema takes that" in problem.notes
        chosen = prepare(tiny(tmp_path, weights=f"{file}#model_ema"), tmp_path / "run")
        assert not [note for note in chosen.notes if "taken" in note]

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("w.pt", None, "there is no weights file"),
            ("w.safetensors", b"no weights at all", "cannot read the weights"),
            ("w.pt", b"no weights at all", "is not a weights file, or holds more than weights"),
            ("w.pt", b"", "cannot read the weights"),
            ("w.pt", pickle.dumps(print), "reading it could run foreign code"),
        ],
        ids=["missing", "text as safetensors", "text", "empty", "pickle"],
    )
    def test_files_that_are_none(self, tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(BackboneError, match=words):
            read_weights(tmp_path / name)

    def test_a_whole_module_is_not_loaded(self, tmp_path: Path) -> None:
        with pytest.raises(BackboneError, match="foreign code") as caught:
            read_weights(torch_file(nn.Linear(2, 2), tmp_path / "w.pt"))
        assert "torch.save(network.state_dict(), FILE)" in str(caught.value)

    def test_a_file_without_tensors(self, tmp_path: Path) -> None:
        with pytest.raises(BackboneError, match="there are no weights in"):
            read_weights(torch_file({"epoch": 3}, tmp_path / "w.pt"))


class TestFitting:
    @pytest.mark.parametrize("prefix", ["", "model.", "module.backbone.", "_orig_mod."])
    def test_prefixes_go(self, state: State, prefix: str) -> None:
        fitted = fit({prefix + name: value for name, value in state.items()})
        assert fitted.weights.keys() == state.keys()

    def test_a_prefix_that_only_the_network_has(self, state: State) -> None:
        class Wrapped(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = backbone_of("resnet8")

        assert fit(state, Wrapped()).weights.keys() == {f"model.{name}" for name in state}

    def test_what_lies_outside_the_prefix_is_told(self, state: State) -> None:
        more = {f"student.{name}": value for name, value in state.items()} | {"loss.weight": torch.ones(3)}
        assert fit(more).notes == (
            "names without the prefix 'student.'",
            "1 tensors outside 'student.' are left out",
        )

    def test_the_last_layer_of_other_classes_starts_anew(self, state: State) -> None:
        model = nn.Sequential(nn.Conv2d(1, 7, 3), nn.Flatten(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 3))
        weights = {**model.state_dict(), "4.weight": torch.ones(1000, 7), "4.bias": torch.ones(1000)}
        fitted = fit(weights, model, classes=3)
        assert set(fitted.weights) == set(model.state_dict()) - {"4.weight", "4.bias"}
        assert fitted.notes == ("the last layer is re-initialised for 3 classes (4.weight, 4.bias)",)
        without = {name: value for name, value in weights.items() if not name.startswith("4.")}
        assert fit(without, model, classes=3).weights.keys() == fitted.weights.keys()

    @pytest.mark.parametrize("channels", [1, 2, 5])
    def test_another_number_of_channels_as_adapt_input_does(self, channels: int) -> None:
        def network(inputs: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(inputs, 4, 3), nn.BatchNorm2d(4))

        old, new = network(3), network(channels)
        fitted = fit(old.state_dict(), new)
        assert fitted.notes == (f"0.weight is converted from 3 to {channels} channels",)
        adapt_input(old, channels, (channels, 8, 8))
        torch.testing.assert_close(fitted.weights["0.weight"], old.state_dict()["0.weight"])

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda s: {**s, "extra": torch.ones(1)}, "extra (the network has none)"),
            (
                lambda s: {**s, "stem.conv.weight": torch.ones(3, 1, 3, 3)},
                "(3, 1, 3, 3) (the network has (16, 1",
            ),
            (lambda s: dict(list(s.items())[6:]), "(the file has none)"),
            (lambda s: {"a": torch.ones(1)}, "a (the network has none)"),
        ],
        ids=["unexpected", "shape", "lacking", "another network"],
    )
    def test_other_mismatches_are_errors_with_names(
        self, state: State, change: Callable[[State], State], words: str
    ) -> None:
        renamed = {("stem.conv.weight" if i == 0 else n): v for i, (n, v) in enumerate(state.items())}
        first = next(iter(state))
        changed = {(first if name == "stem.conv.weight" else name): v for name, v in change(renamed).items()}
        with pytest.raises(BackboneError, match="the weights do not fit ResNet") as caught:
            fit(changed)
        assert words in str(caught.value)
        assert "in the file" in str(caught.value)


def pretrained(folder: Path, **changes: Any) -> SearchConfig:
    state = backbone_of("resnet8", seed=5).state_dict()
    file = torch_file({"state_dict": {f"model.{n}": v for n, v in state.items()}}, folder / "start.ckpt")
    return tiny(folder, **{"weights": str(file), **changes})


class TestSearch:
    def test_every_candidate_starts_as_the_pretrained_network(self, tmp_path: Path) -> None:
        """With a learning rate of nearly nothing, every placement is the pretrained network: gates are 1."""
        train = Recipe(epochs=1, batch_size=256, lr=1e-12, precision="32")
        result = search(pretrained(tmp_path, train=train, keep_weights="all", vary_seed=False))  # the same batches
        losses = result.trials["val_loss"].to_numpy(float)
        assert len(losses) == 3
        assert losses == pytest.approx([losses[0]] * 3, abs=1e-5)
        known = backbone_of("resnet8", seed=5).state_dict()
        for trial in result.trials["trial"]:
            weights = safetensors.torch.load_file(result.folder / "weights" / f"{trial}.safetensors")
            for name, value in known.items():
                if "running" not in name and "tracked" not in name:
                    torch.testing.assert_close(weights[name], value)

    def test_it_goes_on_from_the_same_weights_only(self, tmp_path: Path) -> None:
        search(pretrained(tmp_path, budget=2))
        assert len(search(pretrained(tmp_path, budget=3)).trials) == 3
        other = torch_file(backbone_of("resnet8", seed=6).state_dict(), tmp_path / "other.pt")
        with pytest.raises(Exception, match="start_weights"):
            search(pretrained(tmp_path, budget=4, weights=str(other)))

    def test_a_data_set_with_other_classes(self, tmp_path: Path) -> None:
        data = Target(target=f"npz:{write_npz(tmp_path / 'three.npz')}")
        result = search(pretrained(tmp_path, data=data, budget=2))
        assert list(result.trials["state"]) == ["complete"] * 2

    def test_the_wrong_network_is_refused_before_anything_is_trained(self, tmp_path: Path) -> None:
        with pytest.raises(BackboneError, match="the weights do not fit ResNet"):
            search(pretrained(tmp_path, backbone=Target(target="resnet14")))


def test_the_identity_gives_the_output_of_the_backbone() -> None:
    model = backbone_of("resnet8").eval()
    from se_nas.insertion.discover import units_of

    spec = read_space({"reductions": ["none", 16], "init": "identity"})
    space = Space(spec, units_of(model, DIGITS, spec.units))
    image = torch.rand(4, *DIGITS)
    with_se = insert_se(model, space.reference, input_shape=DIGITS).eval()
    torch.testing.assert_close(with_se(image), model(image))
    assert weights_checksum(with_se) != weights_checksum(model)
