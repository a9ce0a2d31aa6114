"""Training and `evaluate`: what is learned, what fails and how, and what must not disturb it."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Recording, identity, request, units_of
from sklearn.metrics import accuracy_score, f1_score, log_loss, top_k_accuracy_score
from torch import nn
from torch.nn import functional

from se_nas.core.errors import ConfigError, PluginError
from se_nas.core.files import weights_file
from se_nas.core.placement import Choice, Placement
from se_nas.core.plugins import load
from se_nas.core.serialization import from_json
from se_nas.core.trial import Epoch, Recipe, Request, Result, Target
from se_nas.data.store import prepare_data
from se_nas.insertion.insert import build_candidate
from se_nas.training.classification import Classification, make_optimizer, make_schedule
from se_nas.training.evaluate import evaluate, result_file, train_steps
from se_nas.training.tasks import open_task
from se_nas.training.trainer import DeviceSettings, array_batches, choose_precision, out_of_memory

QUICK = Recipe(epochs=1, batch_size=256)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    prepare_data(Target(target="digits"), folder)
    return folder


def asking(folder: Path, recipe: Recipe = QUICK, placement: Placement | None = None, **changes: Any) -> Request:
    placement = placement or Placement(choices={})
    facts = {"seed": changes.pop("seed", 0), "task": changes.pop("task", Target(target="classification"))}
    facts["replicate"] = changes.pop("replicate", 0)
    return request(
        placement,
        units=units_of("resnet8"),
        identity=identity(placement, recipe=recipe, epochs=recipe.epochs, **facts),
        folder=str(folder),
        **changes,
    )


class TestEvaluate:
    def test_learns_the_digits(self, digits: Path) -> None:
        channel = Recording()
        result = evaluate(asking(digits, Recipe(epochs=5, batch_size=64)), channel)
        assert result.state == "complete", result.reason
        assert result.metrics["val_accuracy"].value > 0.85
        assert [e.epoch for e in result.curve] == [1, 2, 3, 4, 5]
        assert channel.reports == [(e.epoch, e.metrics) for e in result.curve]
        losses = [e.metrics["train_loss"] for e in result.curve]
        assert losses[-1] < losses[0] / 1.5
        assert (result.metrics["val_accuracy"].direction, result.metrics["val_loss"].direction) == (
            "maximize",
            "minimize",
        )

    def test_leaves_result_and_weights_in_the_run_folder(self, digits: Path) -> None:
        asked = asking(digits, trial=3, attempt=2)
        result = evaluate(asked, Recording())
        file = result_file(digits, 3, 2)
        assert from_json(file.read_bytes(), Result) == result
        assert (result.trial, result.attempt) == (3, 2)
        assert weights_file(digits, 3).is_file()
        assert result.seconds > 0
        assert result.device.startswith("cpu")
        assert {"python", "torch", "optuna"} <= result.versions.keys()
        assert not list(digits.rglob(".*"))

    def test_the_metrics_are_those_of_the_saved_weights(self, digits: Path) -> None:
        from safetensors.torch import load_file

        from se_nas.data.store import open_part, read_info

        result = evaluate(asking(digits, trial=4), Recording())
        network = build_candidate(
            Target(target="resnet8"), (), Placement(choices={}), num_classes=10, input_shape=(1, 8, 8), seed=9
        )
        network.load_state_dict(load_file(weights_file(digits, 4)))
        info, val = read_info(digits), open_part(digits, "val")
        images = (torch.from_numpy(np.array(val.images)).float() - info.mean[0]) / info.std[0]
        with torch.no_grad():
            shares = network.eval()(images).double().softmax(1).numpy()
        found = shares.argmax(1)
        assert result.metrics["val_accuracy"].value == pytest.approx((found == val.labels).mean())
        judged = {name: value for name, value in result.curve[-1].metrics.items() if not name.startswith("train_")}
        assert judged == pytest.approx({
            "val_accuracy": accuracy_score(val.labels, found),
            "val_f1": f1_score(val.labels, found, average="macro"),
            "val_top5": top_k_accuracy_score(val.labels, shares, k=5),
            "val_loss": log_loss(val.labels, shares),
        }, rel=1e-5)  # fmt: skip

    def test_accuracy_in_training_is_that_of_its_batches(self, digits: Path) -> None:
        from se_nas.data.store import read_info

        recipe = replace(asking(digits).identity.recipe, lr=1e-12, warmup=0.0, augment="none")
        request = asking(digits)
        result = evaluate(replace(request, identity=replace(request.identity, recipe=recipe, epochs=1)), Recording())
        network = build_candidate(
            request.backbone, request.units, request.placement, num_classes=10, input_shape=(1, 8, 8),
            seed=request.identity.seed,
        )  # fmt: skip
        batches, _ = array_batches(read_info(digits), digits, recipe, DeviceSettings(), seed=request.identity.seed)
        with torch.no_grad():
            found = [network.train()(images).argmax(1) == labels for images, labels in batches]
        assert result.curve[0].metrics["train_accuracy"] == pytest.approx(float(torch.cat(found).double().mean()))

    def test_leaves_this_process_as_it_was(self, digits: Path) -> None:
        lightning = logging.getLogger("pytorch_lightning")
        before = torch.get_num_threads(), lightning.level
        torch.set_num_threads(2)
        try:
            evaluate(asking(digits), Recording())
            assert (torch.get_num_threads(), lightning.level) == (2, before[1])
        finally:
            torch.set_num_threads(before[0])

    def test_same_seed_same_curve_other_seed_other_curve(self, digits: Path) -> None:
        one, two, other, again = (
            evaluate(asking(digits, **facts), Recording()).curve for facts in ({}, {}, {"seed": 1}, {"replicate": 1})
        )
        assert one == two
        assert one != other
        assert one != again

    def test_variables_of_slurm_do_not_disturb(self, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = evaluate(asking(digits), Recording())
        for name, value in {
            "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "3",
            "SLURM_LOCALID": "3", "SLURM_NODELIST": "n[1-4]", "SLURM_NTASKS_PER_NODE": "2",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        inside = evaluate(asking(digits), Recording())
        assert inside.state == "complete", inside.reason
        assert inside.curve == plain.curve

    def test_stops_when_the_channel_says_so(self, digits: Path) -> None:
        channel = Recording(stop_after=2)
        result = evaluate(asking(digits, replace(QUICK, epochs=4)), channel)
        assert (result.state, result.reason) == ("stopped", "stopped early")
        assert len(result.curve) == 2 == len(channel.reports)

    def test_a_stop_after_the_last_epoch_is_none(self, digits: Path) -> None:
        assert evaluate(asking(digits, replace(QUICK, epochs=2)), Recording(stop_after=2)).state == "complete"

    def test_seals_the_data(self, digits: Path) -> None:
        before = sorted(file.name for file in (digits / "data").iterdir())
        evaluate(asking(digits), Recording())
        assert sorted(file.name for file in (digits / "data").iterdir()) == before
        assert not any(name.startswith("test") for name in before)


class TestFailures:
    def test_a_loss_that_is_not_finite(self, digits: Path) -> None:
        result = evaluate(asking(digits, replace(QUICK, lr=1e30, epochs=3), trial=7), Recording())
        assert result.state == "failed"
        assert result.reason in ("non-finite train_loss in epoch 1", "non-finite val_loss in epoch 1")
        assert result.metrics == {}
        assert json.loads(result_file(digits, 7, 1).read_text())["state"] == "failed"
        assert not weights_file(digits, 7).exists()

    def test_a_network_that_fails_in_training(self, digits: Path, tmp_path: Path) -> None:
        (tmp_path / "net.py").write_text(
            "from torch import nn\n"
            "class Net(nn.Linear):\n"
            "    def forward(self, x):\n"
            "        raise RuntimeError('the first line\\nand more')\n"
            "def net(num_classes): return Net(64, num_classes)\n"
        )
        asked = replace(asking(digits), backbone=Target(target=f"{tmp_path / 'net.py'}:net"))
        result = evaluate(asked, Recording())
        assert (result.state, result.reason) == ("failed", "RuntimeError: the first line")

    def test_a_task_that_does_not_log_its_metric(self, digits: Path, tmp_path: Path) -> None:
        (tmp_path / "task.py").write_text(
            "from se_nas.training.classification import Classification\n"
            "class Mine(Classification):\n    metric = 'val_other'\n"
        )
        result = evaluate(asking(digits, task=Target(target=f"{tmp_path / 'task.py'}:Mine")), Recording())
        assert (result.state, result.reason) == ("failed", "the task did not log 'val_other'")

    def test_a_full_disk_is_raised(self, digits: Path) -> None:
        with pytest.raises(OSError, match="No such file"):
            evaluate(replace(asking(digits), folder="/no/such/run"), Recording())


class TestRecipe:
    def network(self) -> nn.Module:
        return build_candidate(
            Target(target="resnet8"), units_of("resnet8"), Placement(choices={"layer1.0": Choice.se(16, 4, bias=True)}),
            num_classes=10, input_shape=(1, 8, 8), seed=0,
        )  # fmt: skip

    @pytest.mark.parametrize("optimizer", ["sgd", "adamw", "torch.optim:RMSprop"])
    def test_optimizers(self, digits: Path, optimizer: str) -> None:
        result = evaluate(asking(digits, replace(QUICK, optimizer=optimizer, lr=0.01)), Recording())
        assert result.state == "complete", result.reason

    def test_weight_decay_acts_on_weights_alone(self) -> None:
        network = self.network()
        optimizer = make_optimizer(network, QUICK, fused=False)
        decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        for name, parameter in network.named_parameters():
            assert decay[id(parameter)] == (5e-4 if parameter.dim() > 1 else 0.0), name
        assert isinstance(optimizer, torch.optim.SGD)
        assert all(group["nesterov"] and group["momentum"] == 0.9 for group in optimizer.param_groups)

    def test_no_momentum(self) -> None:
        optimizer = make_optimizer(self.network(), replace(QUICK, momentum=0.0), fused=False)
        assert not optimizer.param_groups[0]["nesterov"]

    def test_wrong_optimizers_are_named(self) -> None:
        with pytest.raises(ConfigError, match="optimizer is 'adma'") as caught:
            make_optimizer(self.network(), replace(QUICK, optimizer="adma"), fused=False)
        assert "sgd, adamw, package.module:Optimizer" in str(caught.value)
        with pytest.raises(PluginError, match="no attribute 'Adem'"):
            make_optimizer(self.network(), replace(QUICK, optimizer="torch.optim:Adem"), fused=False)

    @pytest.mark.parametrize("schedule", ["onecycle", "cosine", "constant"])
    def test_schedules(self, schedule: str) -> None:
        recipe = replace(QUICK, schedule=schedule, lr=0.4, warmup=0.25)
        optimizer = make_optimizer(self.network(), recipe, fused=False)
        scheduler = make_schedule(optimizer, recipe, 100)
        rates = []
        for _ in range(100):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert max(rates) == pytest.approx(0.4, rel=0.01)
        if schedule == "onecycle":
            assert 20 <= rates.index(max(rates)) <= 30
            assert rates[0] < 0.1
        assert (rates[-1] < 0.01) == (schedule != "constant")

    @pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
    def test_short_trainings_have_a_schedule(self, steps: int) -> None:
        optimizer = make_optimizer(self.network(), QUICK, fused=False)
        scheduler = make_schedule(optimizer, QUICK, steps)
        for _ in range(steps):
            optimizer.step()
            scheduler.step()
        assert 0 <= optimizer.param_groups[0]["lr"] <= (QUICK.lr if steps == 1 else QUICK.lr / 2)

    @pytest.mark.parametrize("warmup", [0.0, 1.0])
    def test_warmup_at_its_ends(self, digits: Path, warmup: float) -> None:
        result = evaluate(asking(digits, replace(QUICK, warmup=warmup)), Recording())
        assert result.state == "complete", result.reason

    def test_class_weights_are_inverse_frequencies(self) -> None:
        counts = torch.tensor([10.0, 30.0, 60.0])
        recipe = replace(QUICK, class_weights="balanced")
        module = Classification().module(nn.Flatten(), recipe, steps=1, class_counts=counts)
        torch.testing.assert_close(module.class_weights, 100 / (3 * counts))
        images, labels = torch.randn(4, 3, 1), torch.tensor([0, 1, 2, 2])
        expected = functional.cross_entropy(
            images[..., 0], labels, weight=100 / (3 * counts), label_smoothing=recipe.label_smoothing
        )
        torch.testing.assert_close(module.training_step((images, labels), 0), expected)
        plain = Classification().module(nn.Flatten(), QUICK, steps=1, class_counts=counts)
        assert plain.class_weights is None

    def test_class_weights_need_labels(self) -> None:
        with pytest.raises(ConfigError, match="class_weights: balanced needs data whose labels are known"):
            Classification().module(nn.Flatten(), replace(QUICK, class_weights="balanced"), steps=1, class_counts=None)

    def test_every_setting_trains(self, digits: Path) -> None:
        recipe = replace(
            QUICK, augment="shift-flip", class_weights="balanced", label_smoothing=0.0, schedule="cosine", momentum=0.0
        )
        assert evaluate(asking(digits, recipe), Recording()).state == "complete"

    def test_bf16_trains_and_logs_plain_numbers(self, digits: Path) -> None:
        asked = asking(digits)
        asked = replace(asked, identity=replace(asked.identity, precision="bf16"), channels_last=True)
        result = evaluate(asked, Recording())
        assert result.state == "complete", result.reason
        assert isinstance(result.curve[0], Epoch)
        assert all(isinstance(value, float) for value in result.curve[0].metrics.values())

    def test_precision_is_chosen_once(self) -> None:
        cpu = torch.device("cpu")
        assert choose_precision("32", cpu) == "32"
        assert choose_precision("bf16", cpu) == "bf16"
        assert choose_precision("auto", cpu) in ("32", "bf16")


def test_unknown_task_is_named() -> None:
    with pytest.raises(PluginError, match="unknown task 'clasification'") as caught:
        open_task(Target(target="clasification"))
    assert "did you mean 'classification'?" in str(caught.value)


@pytest.mark.parametrize("steps", [1, 5, 12])
def test_so_many_steps(digits: Path, tmp_path: Path, steps: int) -> None:
    """Across epochs of five batches."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    calls = 0\n"
        "    def forward(self, x):\n"
        "        Net.calls += self.training\n"
        "        return super().forward(x.flatten(1))\n"
        "def net(num_classes): return Net(64, num_classes)\n"
    )
    asked = asking(digits, Recipe(epochs=1, batch_size=200), trial=30)
    train_steps(replace(asked, backbone=Target(target=f"{tmp_path / 'net.py'}:net"), units=()), steps)
    assert load(f"{tmp_path / 'net.py'}:Net").calls == steps
    assert not (digits / "results" / "30-1.json").exists()


@pytest.mark.gpu
def test_trains_on_a_gpu(digits: Path) -> None:
    result = evaluate(asking(digits, device="cuda:0", trial=20), Recording())
    assert result.state == "complete", result.reason
    assert result.device.startswith("cuda:0 (")


# Raises what torch raises when memory is too small, where more than so many images train at once.
NARROW = """
import torch
from torch import nn

class Narrow(nn.Module):
    def __init__(self, most, error, num_classes, norm):
        super().__init__()
        self.most, self.error = most, error
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x):
        if self.training and len(x) > self.most:
            if self.error == "real":
                torch.empty(2**60)
            raise {"cuda": torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
                   "numpy": MemoryError()}[self.error]
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))

def net(num_classes, most, error="real", norm=False):
    return Narrow(most, error, num_classes, norm)
"""


class TestOutOfMemory:
    def asking(self, digits: Path, tmp_path: Path, most: int, batch: int = 128, **args: Any) -> Request:
        (tmp_path / "narrow.py").write_text(NARROW)
        recipe = Recipe(epochs=2 if batch == 128 else 1, batch_size=batch, augment="shift-flip")
        target = Target(target=f"{tmp_path / 'narrow.py'}:net", args={"most": most, **args})
        return replace(asking(digits, recipe, trial=30), backbone=target, units=())

    @pytest.mark.parametrize("error", ["real", "cuda", "numpy"])
    def test_the_batch_is_halved_until_it_fits(self, digits: Path, tmp_path: Path, error: str) -> None:
        result = evaluate(self.asking(digits, tmp_path, 40, error=error, norm=True), Recording())
        assert result.state == "complete", result.reason
        assert result.notes == (
            "out of memory: batches of 64 with gradients of 2 added up "
            "(the same 128 images a step; BatchNorm sees 64)",
            "out of memory: batches of 32 with gradients of 4 added up "
            "(the same 128 images a step; BatchNorm sees 32)",
        )  # fmt: skip
        assert [e.epoch for e in result.curve] == [1, 2]

    @pytest.mark.parametrize(("batch", "most"), [(128, 40), (127, 126), (100, 12)])
    def test_without_norms_the_training_is_the_same(self, digits: Path, tmp_path: Path, batch: int, most: int) -> None:
        """Same seed, same images, same augmentation, same steps: equal up to rounding."""
        whole = evaluate(self.asking(digits, tmp_path, batch, batch), Recording())
        pieces = evaluate(self.asking(digits, tmp_path, most, batch), Recording())
        assert whole.notes == ()
        assert pieces.notes != ()
        for one, two in zip(whole.curve, pieces.curve, strict=True):
            assert two.metrics == pytest.approx(one.metrics, rel=1e-3)

    def test_not_even_one_image(self, digits: Path, tmp_path: Path) -> None:
        result = evaluate(self.asking(digits, tmp_path, 0, batch=8), Recording())
        assert (result.state, result.reason) == ("failed", "out of memory with one image at a time")
        assert len(result.notes) == 3

    def test_other_errors_are_not_taken_for_it(self, digits: Path, tmp_path: Path) -> None:
        assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
        assert out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))

    def test_the_checkpoint_knows_the_pieces(self, digits: Path, tmp_path: Path) -> None:
        class Killed(BaseException):
            pass

        class Broken(Recording):
            def report(self, epoch: int, metrics: Any) -> Any:
                if epoch == 2:
                    raise Killed
                return "continue"

        asked = replace(self.asking(digits, tmp_path, 64, norm=True), checkpoint_minutes=1e-9)
        whole = evaluate(replace(asked, checkpoint_minutes=0), Recording())
        with pytest.raises(Killed):
            evaluate(asked, Broken())
        resumed = evaluate(asked, Recording())
        assert resumed.curve == whole.curve
        assert resumed.notes == (
            "out of memory: batches of 64 with gradients of 2 added up (the same 128 images a step; BatchNorm sees 64)",
            "continued after epoch 1 of an interrupted attempt",
        )
