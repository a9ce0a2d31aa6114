"""The exam: on the sealed part and no other, image by image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import Recording, identity, request, units_of
from safetensors.torch import save_file
from sklearn.metrics import f1_score
from torch.utils.data import DataLoader, TensorDataset

from se_nas.core.errors import RunError
from se_nas.core.files import weights_file
from se_nas.core.placement import Placement
from se_nas.core.trial import Result, Target
from se_nas.data.base import DataInfo
from se_nas.data.datamodule import Seen
from se_nas.data.sealed import open_test
from se_nas.data.store import open_part, prepare_data
from se_nas.engine.confirming import check_contents
from se_nas.engine.exam import GROUPS, Examined, exam_content, exam_file, examine
from se_nas.insertion.insert import build_candidate

UNITS = units_of("resnet8")


def examine_untrained(
    folder: Path, info: DataInfo, metric: str, trial: int = 0, precision: str = "32", **changes: Any
) -> tuple[Result, torch.nn.Module]:
    """Examine a network without SE as it begins; with the network, in eval mode."""
    placement, backbone = Placement(choices={}), Target(target="resnet8")
    candidate = build_candidate(backbone, UNITS, placement, num_classes=10, input_shape=info.input_shape, seed=0)
    weights_file(folder, trial, "confirm").parent.mkdir(exist_ok=True)
    save_file(candidate.state_dict(), weights_file(folder, trial, "confirm"))
    known = identity(placement, phase="confirm", precision=precision)
    asked = request(placement, identity=known, units=UNITS, folder=str(folder), metric=metric, trial=trial, **changes)
    return examine(asked, Recording()), candidate.eval()


def examined(folder: Path, metric: str, *, val: int, test: int) -> tuple[np.ndarray, torch.Tensor, np.ndarray]:
    """Scores on a test set of random images, and what the network says of them, logits and classes by hand."""
    generator = np.random.default_rng(0)
    arrays = {}
    for name, n in (("train", 40), ("val", val), ("test", test)):
        arrays[f"x_{name}"] = generator.integers(0, 256, (n, 8, 8)).astype(np.uint8)
        arrays[f"y_{name}"] = (np.arange(n) + generator.integers(0, 2, n)) % 10
    np.savez(folder / "data.npz", **arrays)
    info = prepare_data(Target(target=f"npz:{folder / 'data.npz'}"), folder)
    open_test(folder, purpose="a test")
    result, candidate = examine_untrained(folder, info, metric)
    assert result.state == "complete", result.reason
    assert len(open_part(folder, "val").labels) == val
    images = (torch.from_numpy(arrays["x_test"]).float()[:, None] - info.mean[0]) / info.std[0]
    with torch.no_grad():
        return np.load(exam_file(folder, 0))["scores"], candidate(images), arrays["y_test"]


class Halves(pl.LightningDataModule):
    """Validation and test set are other images; what is not set up is not there."""

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(["fit", "validate", "test"].index(stage))
        images, labels = torch.randn(24, 1, 8, 8, generator=generator), torch.randint(0, 10, (24,), generator=generator)
        self.parts = {stage: DataLoader(TensorDataset(images, labels), batch_size=10)}

    def train_dataloader(self) -> Any:
        return self.parts["fit"]

    def val_dataloader(self) -> Any:
        return self.parts.get("validate") or self.parts["fit"]

    def test_dataloader(self) -> Any:
        return self.parts["test"]


class Singles(Halves):
    """A test set of 40 batches of three images, which are made darker on their way to the network."""

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(["fit", "validate", "test"].index(stage))
        images = torch.randn(120, 1, 8, 8, generator=generator)
        labels = torch.randint(0, 10, (120,), generator=generator)
        self.parts = {stage: DataLoader(TensorDataset(images, labels), batch_size=3)}

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        assert dataloader_idx == 0
        return batch[0] - 1.0, batch[1]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        assert dataloader_idx == 0
        return batch[0] * 3.0, batch[1]


class TestExam:
    def test_of_a_data_module_is_on_its_test_part(self, tmp_path: Path) -> None:
        info = prepare_data(Target(target=f"{Path(__file__).resolve()}:Halves"), tmp_path)
        result, candidate = examine_untrained(tmp_path, info, "val_accuracy")
        assert result.state == "complete", result.reason
        data = Halves()
        data.setup("test")
        with torch.no_grad():
            right = [(candidate(images).argmax(1) == labels).float() for images, labels in data.test_dataloader()]
        np.testing.assert_array_equal(np.load(exam_file(tmp_path, 0))["scores"], torch.cat(right))
        assert torch.cat(right).sum() > 0
        seen = Seen(data.test_dataloader())
        assert (seen.checksum, sum(1 for _ in seen)) == ("", len(data.test_dataloader()))
        assert exam_content(exam_file(tmp_path, 0)) == seen.checksum != ""

    @pytest.mark.parametrize(("val", "test"), [(18, 30), (24, 24)], ids=["other size", "same size"])
    def test_is_on_the_test_part(self, tmp_path: Path, val: int, test: int) -> None:
        scores, logits, labels = examined(tmp_path, "val_accuracy", val=val, test=test)
        right = logits.argmax(1).numpy() == labels
        assert 0 < right.sum() < test
        np.testing.assert_array_equal(scores, right)

    def test_of_a_loss_has_that_of_each_image(self, tmp_path: Path) -> None:
        scores, logits, labels = examined(tmp_path, "val_loss", val=18, test=30)
        expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), reduction="none")
        np.testing.assert_allclose(scores, expected, rtol=1e-4)

    def test_of_a_metric_that_is_no_mean_leaves_out_a_group_at_a_time(self, tmp_path: Path) -> None:
        """The pseudo-values of a jackknife, with scikit-learn's F1."""
        scores, logits, labels = examined(tmp_path, "val_f1", val=18, test=50)
        found = logits.argmax(1).numpy()
        group = np.arange(50) % GROUPS
        without = [f1_score(labels[group != g], found[group != g], average="macro") for g in range(GROUPS)]
        whole = f1_score(labels, found, average="macro")
        np.testing.assert_allclose(scores, GROUPS * whole - (GROUPS - 1) * np.array(without), atol=1e-5)

    def test_of_a_data_module_goes_its_way_and_leaves_out_batches_by_turns(self, tmp_path: Path) -> None:
        """Its hooks make 3 (x - 1) of an image; every 20th batch is a group."""
        info = prepare_data(Target(target=f"{Path(__file__).resolve()}:Singles"), tmp_path)
        result, candidate = examine_untrained(tmp_path, info, "val_f1")
        assert result.state == "complete", result.reason
        data = Singles()
        data.setup("test")
        images, labels = data.parts["test"].dataset.tensors
        with torch.no_grad():
            found = candidate(3.0 * (images - 1.0)).argmax(1).numpy()
        group = np.arange(120) // 3 % GROUPS
        without = [f1_score(labels[group != g], found[group != g], average="macro") for g in range(GROUPS)]
        whole = f1_score(labels, found, average="macro")
        scores = np.load(exam_file(tmp_path, 0))["scores"]
        np.testing.assert_allclose(scores, GROUPS * whole - (GROUPS - 1) * np.array(without), atol=1e-5)
        assert np.ptp(scores) > 0.01


@pytest.mark.parametrize("contents", [("a", "a"), ("a", ""), ("a", "b")], ids=["equal", "an older one", "other"])
def test_only_networks_that_saw_the_same_batches_are_compared(tmp_path: Path, contents: tuple[str, str]) -> None:
    files = [tmp_path / f"test-{number}.npz" for number in range(3)]
    for file, content in zip(files, contents, strict=False):  # the third was not examined yet
        np.savez(file, scores=np.zeros(3), **({"content": np.array(content)} if content else {}))
    if contents != ("a", "b"):
        check_contents(files)
        return
    with pytest.raises(RunError, match="not examined on the same images and labels: the data module gave 2 versions"):
        check_contents(files)


@pytest.mark.parametrize("change", ["labels", "images", "order"])
def test_batches_are_told_apart_by_images_labels_and_order(change: str) -> None:
    images, labels = torch.arange(8.0).reshape(4, 1, 2, 1), torch.tensor([0, 1, 0, 1])
    other = {"labels": (images, 1 - labels), "images": (images + 1, labels), "order": (images.flip(0), labels.flip(0))}
    one, same, two = (Seen([{"image": x, "label": y}]) for x, y in ((images, labels), (images, labels), other[change]))
    for seen in (one, same, two):
        list(seen)
    assert one.checksum == same.checksum != two.checksum


@pytest.fixture
def prepared(tmp_path: Path) -> DataInfo:
    """Random images whose test set is open."""
    generator = np.random.default_rng(0)
    parts = {}
    for name, n in (("train", 40), ("val", 18), ("test", 30)):
        parts[f"x_{name}"] = generator.integers(0, 256, (n, 8, 8)).astype(np.uint8)
        parts[f"y_{name}"] = (np.arange(n) + generator.integers(0, 2, n)) % 10
    np.savez(tmp_path / "data.npz", **parts)
    info = prepare_data(Target(target=f"npz:{tmp_path / 'data.npz'}"), tmp_path)
    open_test(tmp_path, purpose="a test")
    return info


class TestFile:
    def test_has_all_metrics_beside_the_scores_by_the_trial(self, tmp_path: Path, prepared: DataInfo) -> None:
        result, _ = examine_untrained(tmp_path, prepared, "val_accuracy", trial=3, attempt=2)
        assert (result.trial, result.attempt, result.state, result.reason) == (3, 2, "complete", "")
        assert 0 < result.seconds < 100
        assert exam_file(tmp_path, 3) == tmp_path / "confirm" / "test-3.npz"
        assert not exam_file(tmp_path, 0).exists()
        with np.load(exam_file(tmp_path, 3)) as saved:
            metrics = dict(zip(saved["names"].tolist(), saved["values"].tolist(), strict=True))
            assert saved["values"].dtype == np.float64
            assert saved["scores"].dtype == np.float64
            assert metrics["val_accuracy"] == pytest.approx(saved["scores"].mean())
        assert {"val_accuracy", "val_loss", "val_f1"} <= set(metrics)

    def test_does_not_depend_on_the_layout_in_memory(self, tmp_path: Path, prepared: DataInfo) -> None:
        for trial, channels_last in enumerate((False, True)):
            result, _ = examine_untrained(tmp_path, prepared, "val_loss", trial=trial, channels_last=channels_last)
            assert result.state == "complete", result.reason
        one, two = (np.load(exam_file(tmp_path, trial))["scores"] for trial in (0, 1))
        np.testing.assert_allclose(one, two, rtol=1e-4)

    def test_is_computed_as_precisely_as_the_training(self, tmp_path: Path, prepared: DataInfo) -> None:
        for trial, precision in enumerate(("32", "bf16")):
            examine_untrained(tmp_path, prepared, "val_loss", trial=trial, precision=precision)
        one, two = (np.load(exam_file(tmp_path, trial))["scores"] for trial in (0, 1))
        assert 1e-5 < np.abs(one - two).max() < 0.1

    def test_runs_on_the_threads_of_the_request_alone(
        self, tmp_path: Path, prepared: DataInfo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import se_nas.engine.exam as module

        seen: list[int] = []
        found = Examined(scores=np.ones(2), metrics={})
        monkeypatch.setattr(module, "examined", lambda *_: seen.append(torch.get_num_threads()) or found)
        before = torch.get_num_threads()
        examine_untrained(tmp_path, prepared, "val_accuracy", threads=before + 1)
        assert (seen, torch.get_num_threads()) == ([before + 1], before)


class TestFailures:
    def test_a_metric_that_is_not_logged_fails_this_network_alone(self, tmp_path: Path, prepared: DataInfo) -> None:
        result, _ = examine_untrained(tmp_path, prepared, "val_nothing", trial=4, attempt=2)
        assert (result.trial, result.attempt, result.state) == (4, 2, "failed")
        assert "the task did not log 'val_nothing' on the test set" in result.reason
        assert result.seconds > 0
        assert not exam_file(tmp_path, 4).exists()

    def test_weights_of_another_network_are_no_exam(self, tmp_path: Path, prepared: DataInfo) -> None:
        examine_untrained(tmp_path, prepared, "val_accuracy")
        known = identity(Placement(choices={}), phase="confirm")
        facts = {"identity": known, "units": UNITS, "folder": str(tmp_path), "metric": "val_accuracy"}
        other = examine(request(backbone=Target(target="resnet20"), **facts), Recording())
        assert other.state == "failed"
        with pytest.raises(FileNotFoundError):  # the disk is not the network's fault
            examine(request(trial=9, **facts), Recording())
