"""The user's own LightningModule: segmentation, several labels, its metric and optimizer, and what cannot work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import run_python, tiny
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from se_nas.cli import main
from se_nas.commands.search import search
from se_nas.core.errors import ConfigError, PluginError, TrainingError
from se_nas.core.trial import Recipe, Target
from se_nas.data.base import Part
from se_nas.data.batches import Batches, Shuffle, augmented_together
from se_nas.data.store import open_part, prepare_data
from se_nas.training.tasks import open_task

HERE = str(Path(__file__))


class UNet(nn.Module):
    """A small encoder and decoder with a skip, whose output is a dictionary as that of model libraries."""

    def __init__(self, num_classes: int = 2, in_channels: int = 1) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(in_channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.low = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.merge = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, num_classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        high = self.down(x)
        return {"out": self.head(self.merge(torch.cat([high, self.up(self.low(high))], 1)))}


class LitSegmenter(pl.LightningModule):
    """A module as users have it: its own loss, metric, optimizer and schedule."""

    metric = "val_dice"
    direction = "maximize"

    def __init__(self, network: nn.Module, lr: float = 1e-2) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["network"])
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)["out"]

    def training_step(self, batch: Any, index: int) -> Tensor:
        images, masks = batch
        loss = functional.cross_entropy(self(images), masks)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        images, masks = batch
        logits = self(images)
        found = logits.argmax(1)
        overlap = 2 * ((found == 1) & (masks == 1)).sum() / ((found == 1).sum() + (masks == 1).sum()).clamp(min=1)
        self.log_dict({"val_dice": overlap, "val_loss": functional.cross_entropy(logits, masks)})
        self.log("val_of_a_class_that_is_absent", torch.tensor(float("nan")))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1)}


class LitTags(pl.LightningModule):
    """Several labels for each image; it asks for the number of classes and for the recipe."""

    def __init__(self, net: nn.Module, num_classes: int, recipe: Recipe, pos_weight: float = 1.0) -> None:
        super().__init__()
        self.net, self.recipe = net, recipe
        self.register_buffer("weight", torch.full((num_classes,), pos_weight))

    def training_step(self, batch: Any, index: int) -> Tensor:
        return functional.binary_cross_entropy_with_logits(self.net(batch[0]), batch[1].float(), pos_weight=self.weight)

    def validation_step(self, batch: Any, index: int) -> None:
        wrong = ((self.net(batch[0]) > 0) != (batch[1] > 0)).float().mean()
        self.log("val_hamming", wrong)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.recipe.lr)


class NoNetwork(LitSegmenter):
    def __init__(self) -> None:
        super().__init__(UNet())


class Plain(nn.Module):
    def training_step(self, batch: Any, index: int) -> None: ...


class Forgetful(LitSegmenter):
    def __init__(self, network: nn.Module) -> None:
        super().__init__(UNet())


class Misspelt(LitSegmenter):
    metric = "val_dise"


class Silent(LitSegmenter):
    metric = None  # type: ignore[assignment]


class Directionless(LitSegmenter):
    direction = None  # type: ignore[assignment]


class Clumsy(LitSegmenter):
    def training_step(self, batch: Any, index: int) -> Tensor:
        return functional.cross_entropy(self(batch[0])[:, :, :3], batch[1])


class NotFinite(LitSegmenter):
    def on_validation_epoch_end(self) -> None:
        self.log("val_dice", torch.tensor(float("nan")))

    def validation_step(self, batch: Any, index: int) -> None:
        pass


def write_masks(file: Path, n: int = 48, side: int = 16, **more: Any) -> Path:
    """Bright discs on noise, and where they are."""
    generator = np.random.default_rng(0)
    grid = np.indices((side, side))
    centres, radii = generator.uniform(4, side - 4, (n, 2, 1, 1)), generator.uniform(2, 5, (n, 1, 1))
    masks = ((grid[None] - centres) ** 2).sum(1) < radii**2
    images = generator.normal(100, 20, (n, side, side)) + 60 * masks
    np.savez(file, **{"x": images.clip(0, 255).astype(np.uint8), "y": masks.astype(np.uint8), **more})
    return file


class MaskModule(pl.LightningDataModule):
    """Masks as a data module has them, in dictionaries."""

    def train_dataloader(self) -> Any:
        images = torch.randn(32, 1, 16, 16)
        rows = TensorDataset(images, (images[:, 0] > 0).long())
        return DataLoader(
            rows,
            batch_size=16,
            collate_fn=lambda b: dict(zip(("image", "mask"), map(torch.stack, zip(*b, strict=True)), strict=True)),
        )

    val_dataloader = train_dataloader


class LitOfDictionaries(LitSegmenter):
    def training_step(self, batch: Any, index: int) -> Tensor:
        return super().training_step((batch["image"], batch["mask"]), index)

    def validation_step(self, batch: Any, index: int) -> None:
        super().validation_step((batch["image"], batch["mask"]), index)


def segmentation(folder: Path, **changes: Any) -> Any:
    data = Target(target=f"npz:{write_masks(folder / 'masks.npz')}")
    settings = {"backbone": Target(target=f"{HERE}:UNet"), "data": data, "task": Target(target=f"{HERE}:LitSegmenter")}
    return tiny(folder, **{**settings, "train": Recipe(epochs=2, batch_size=8, precision="32"),
                           "space": "stagewise", **changes})  # fmt: skip


class TestSearch:
    def test_a_network_for_masks(self, tmp_path: Path) -> None:
        spaces = tmp_path / "s.yaml"
        spaces.write_text("reductions: [none, 4]\n")
        result = search(segmentation(tmp_path, space=str(spaces), budget=3, train=Recipe(epochs=8, batch_size=8)))
        assert list(result.trials["state"]) == ["complete"] * 3
        assert result.objective.metric == "val_dice"
        assert result.trials["metric"].min() > 0.3
        assert result.trials["val_dice"].equals(result.trials["metric"])
        assert "val_of_a_class_that_is_absent" not in result.trials
        network = result.network()
        assert network(torch.zeros(2, 1, 16, 16))["out"].shape == (2, 2, 16, 16)

    def test_several_labels(self, tmp_path: Path) -> None:
        generator = np.random.default_rng(0)
        tags = generator.integers(0, 2, (60, 3))
        images = generator.normal(100, 10, (60, 3, 8, 8)) + 60 * tags[:, :, None, None]
        np.savez(tmp_path / "tags.npz", x=images.clip(0, 255).astype(np.uint8), y=tags)
        result = search(tiny(
            tmp_path, data=Target(target=f"npz:{tmp_path / 'tags.npz'}"), metric="val_hamming", direction="minimize",
            task=Target(target=f"{HERE}:LitTags", args={"pos_weight": 2.0}), budget=2,
        ))  # fmt: skip
        assert list(result.trials["state"]) == ["complete"] * 2
        assert result.objective.direction == "minimize"
        assert result.best["metric"] == result.front["metric"].min()

    def test_a_data_module_of_dictionaries(self, tmp_path: Path) -> None:
        config = segmentation(
            tmp_path, data=Target(target=f"{HERE}:MaskModule"), task=Target(target=f"{HERE}:LitOfDictionaries"),
            space="stagewise", budget=1,
        )  # fmt: skip
        assert list(search(config).trials["state"]) == ["complete"]

    def test_a_metric_that_is_not_finite_fails_the_training(self, tmp_path: Path) -> None:
        config = segmentation(tmp_path, task=Target(target=f"{HERE}:NotFinite"), space="stagewise", budget=1)
        with pytest.raises(Exception, match="non-finite val_dice in epoch 1"):
            search(config)

    @pytest.mark.slow
    def test_from_the_command_line_in_another_process(self, tmp_path: Path) -> None:
        write_masks(tmp_path / "masks.npz")
        (tmp_path / "mine.py").write_text(Path(HERE).read_text().split("def write_masks")[0].replace(
            "from helpers import run_python, tiny\n", ""))  # fmt: skip
        done = run_python(
            "-m", "se_nas.cli", "search", "--backbone", "mine.py:UNet", "--data", "npz:masks.npz", "--task",
            "mine.py:LitSegmenter", "--budget", "2", "--epochs", "1", "--batch-size", "16", "--workers", "1",
            "--task.args.lr", "0.02", "--out", "run", "--json", cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert '"metric": "val_dice"' in done.stdout


class TestWrongInput:
    @pytest.mark.parametrize(
        ("task", "settings", "kind", "words"),
        [
            ("NoNetwork", {}, PluginError, "takes no network: its first argument must be the candidate"),
            ("Forgetful", {}, PluginError, "does not train the network that it is given"),
            ("Silent", {}, ConfigError, "does not say which of its metrics is compared"),
            ("Directionless", {}, ConfigError, "it is not said whether more val_dice is better"),
            ("Misspelt", {}, TrainingError, "did you mean 'val_dice'?"),
            ("LitSegmenter", {"metric": "val_iou", "direction": "maximize"}, TrainingError, "does not log 'val_iou'"),
            ("Clumsy", {}, TrainingError, "a first training step with this task and network fails"),
            ("LitSegmenter", {"args": {"rate": 1}}, PluginError, "unexpected keyword argument 'rate'"),
        ],
    )
    def test_modules(
        self, tmp_path: Path, task: str, settings: dict[str, Any], kind: type[Exception], words: str
    ) -> None:
        target = Target(target=f"{HERE}:{task}", args=settings.pop("args", {}) if settings else {})
        with pytest.raises(kind) as caught:
            search(segmentation(tmp_path, task=target, space="stagewise", **settings))
        assert words in str(caught.value)

    def test_the_place_of_a_mistake_in_the_module_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(TrainingError) as caught:
            search(segmentation(tmp_path, task=Target(target=f"{HERE}:Clumsy"), space="stagewise"))
        assert caught.value.where is not None
        assert caught.value.where.startswith(f"{HERE}, line ")

    def test_masks_without_a_module(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = write_masks(tmp_path / "masks.npz")
        code = main(["search", "--data", f"npz:{file}", "--backbone", f"{HERE}:UNet", "--out", str(tmp_path / "run")])
        error = capsys.readouterr().err
        assert code == 2
        assert "targets have shape (16, 16)" in error
        assert "--task file.py:Class" in error

    def test_a_class_of_another_package(self) -> None:
        class Foreign:
            def training_step(self) -> None: ...

        Foreign.__module__ = "lightning.pytorch.core.module"
        import sys

        sys.modules[__name__].Foreign = Foreign  # type: ignore[attr-defined]
        with pytest.raises(
            PluginError, match="not a LightningModule of pytorch_lightning, but one of lightning"
        ) as caught:
            open_task(Target(target="test_own_task:Foreign"))
        assert "import pytorch_lightning instead of lightning.pytorch" in str(caught.value)

    def test_a_class_that_is_none(self) -> None:
        with pytest.raises(
            PluginError, match=r"'test_own_task:Plain' is not a LightningModule of pytorch_lightning\n"
        ) as no:
            open_task(Target(target="test_own_task:Plain"))
        assert "class Plain(pytorch_lightning.LightningModule): ..." in str(no.value)


class TestTargets:
    def test_masks_are_kept_and_split(self, tmp_path: Path) -> None:
        info = prepare_data(Target(target=f"npz:{write_masks(tmp_path / 'a.npz', n=50)}"), tmp_path)
        assert (info.target_shape, info.target_type, info.classes) == ((16, 16), "integer", ("0", "1"))
        assert (info.train, info.val, info.test) == (30, 10, 10)
        part = open_part(tmp_path, "train")
        assert part.labels.dtype == np.uint8
        one = prepare_data(Target(target=f"npz:{tmp_path / 'a.npz'}", args={"num_classes": 1}), tmp_path / "one")
        assert one.classes == ("0",)

    @pytest.mark.parametrize("kind", ["none", "shift", "shift-flip"])
    def test_masks_move_with_their_images(self, kind: str) -> None:
        masks = torch.randint(0, 3, (16, 12, 10))
        images = masks[:, None].float()
        moved, targets = augmented_together(images, masks, kind, torch.Generator().manual_seed(0))
        torch.testing.assert_close(moved[:, 0], targets.float())
        assert (kind == "none") == torch.equal(moved, images)

    def test_batches_of_masks(self) -> None:
        masks = np.random.default_rng(0).integers(0, 2, (20, 2, 8, 8)).astype(np.uint8)
        common: dict[str, Any] = {"mean": [0.0, 0.0], "std": [1.0, 1.0], "device": torch.device("cpu")}
        batches = Batches(
            Part(images=masks, labels=masks), batch_size=5, shuffle=Shuffle(seed=0, augment="shift-flip"), **common
        )
        for images, targets in batches:
            assert targets.dtype == torch.int64
            torch.testing.assert_close(images, targets.float())

    def test_numbers_leave_their_images_where_they_are(self) -> None:
        """A number may be a place in the image."""
        images = np.random.default_rng(0).integers(0, 255, (20, 1, 8, 8)).astype(np.uint8)
        common: dict[str, Any] = {"mean": [0.0], "std": [1.0], "device": torch.device("cpu")}
        part = Part(images=images, labels=np.arange(20, dtype=np.float32))
        for batch, targets in Batches(part, batch_size=5, shuffle=Shuffle(seed=0, augment="shift"), **common):
            np.testing.assert_array_equal(batch.numpy(), images[targets.long().numpy()])
