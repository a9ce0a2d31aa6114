"""Classification: cross-entropy in training, accuracy in validation."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import lr_scheduler
from torchmetrics.functional.classification import multiclass_f1_score

from se_nas.backbones.adapt import logits_of
from se_nas.core.errors import ConfigError, DataError, TrainingError
from se_nas.core.plugins import load
from se_nas.core.trial import Direction, Recipe
from se_nas.data.base import DataInfo

TOP = 5

PREDICTED, TRUE = "predicted_class", "true_class"
"""What ``image_scores(batch)`` of a module may give beside metrics: class numbers (batch,), for confusions."""


class Classification:
    """One class for each image. The metric is the share of validation images whose class is found.

    Logged beside it, and to be compared on demand: ``val_top5`` (the class is among the five likeliest; with more than
    five classes), ``val_f1`` (F1 score, mean over classes) and ``val_loss`` (cross-entropy in nats). ``train_loss`` and
    ``train_accuracy`` are means over the training images as they were seen in the epoch: augmented, in batches, with
    the weights of that moment.
    """

    metric = "val_accuracy"
    direction: Direction = "maximize"
    units: Mapping[str, str] = MappingProxyType(
        dict.fromkeys(("val_accuracy", "val_top5", "val_f1", "train_accuracy"), "share")
        | dict.fromkeys(("val_loss", "train_loss"), "nats")
    )

    def check(self, data: DataInfo) -> None:
        """ConfigError if the targets are no class numbers, or their number is not known."""
        if data.target_shape or data.target_type != "integer":
            raise ConfigError(
                f"targets have shape {data.target_shape} and are of type {data.target_type}; "
                "classification needs one class number for each image",
                hint="for masks, several labels or numbers give your LightningModule with --task file.py:Class",
            )
        if not data.classes:
            raise DataError(
                f"data module {data.target.target!r} does not say how many classes there are",
                hint="give it an attribute num_classes or classes",
            )

    def module(self, candidate: nn.Module, recipe: Recipe, **facts: Any) -> pl.LightningModule:
        """The LightningModule of a candidate.

        `facts` has ``steps`` (optimizer steps of the whole training) and ``class_counts`` (images per class in the
        training set, or None if unknown).
        """
        return ClassificationModule(candidate, recipe, steps=facts["steps"], class_counts=facts.get("class_counts"))


class ClassificationModule(pl.LightningModule):
    """Candidate (batch, channels, *size) -> logits (batch, classes), with loss, metrics and optimizer."""

    def __init__(self, candidate: nn.Module, recipe: Recipe, *, steps: int, class_counts: Tensor | None) -> None:
        super().__init__()
        self.candidate = candidate
        self.recipe = recipe
        self.steps = steps
        self.class_weights: Tensor | None
        weights = None
        if recipe.class_weights == "balanced":
            if class_counts is None:
                raise ConfigError("class_weights: balanced needs data whose labels are known, not a data module")
            weights = class_counts.sum() / (len(class_counts) * class_counts.clamp(min=1))
        self.register_buffer("class_weights", weights, persistent=False)
        self._train_loss = torch.zeros(())
        self._train_found, self._train_seen = torch.zeros(()), 0
        self._totals = torch.zeros(2)  # over validation images: cross-entropy, classes among the five likeliest
        self._found: list[Tensor] = []  # the likeliest class of each validation image
        self._labels: list[Tensor] = []
        self._classes = 0

    def forward(self, images: Tensor) -> Tensor:
        logits = logits_of(self.candidate(images))
        if logits is None:
            raise TrainingError(f"{type(self.candidate).__name__} gives no tensor of logits (batch, classes)")
        return logits

    def on_train_epoch_start(self) -> None:
        self._train_loss = torch.zeros((), device=self.device)
        self._train_found, self._train_seen = torch.zeros((), device=self.device), 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch[:2]
        logits = self(images)
        loss = functional.cross_entropy(
            logits, labels, weight=self.class_weights, label_smoothing=self.recipe.label_smoothing
        )
        self._train_loss += loss.detach()
        self._train_found += (logits.detach().argmax(1) == labels).sum()
        self._train_seen += len(labels)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._totals = torch.zeros(2, device=self.device)
        self._found, self._labels = [], []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        images, labels = batch[:2]
        logits = self(images).float()
        loss = functional.cross_entropy(logits, labels, reduction="sum")
        self._totals += torch.stack([loss, _in_top5(logits, labels).sum()])
        self._found.append(logits.argmax(1))
        self._labels.append(labels)
        self._classes = logits.shape[1]

    def image_scores(self, batch: Any) -> dict[str, Tensor]:
        """What each image contributes to the metrics that are means over images, and its class: tensors (batch,)."""
        images, labels = batch[:2]
        logits = self(images).float()
        return {
            PREDICTED: logits.argmax(1),
            TRUE: labels,
            "val_accuracy": (logits.argmax(1) == labels).float(),
            "val_top5": _in_top5(logits, labels).float(),
            "val_loss": functional.cross_entropy(logits, labels, reduction="none"),
        }

    def on_validation_epoch_end(self) -> None:
        loss, in_top5 = self._totals.tolist()
        found, labels = torch.cat(self._found), torch.cat(self._labels)
        number = len(labels)
        self.log("val_accuracy", int((found == labels).sum()) / number)
        f1 = multiclass_f1_score(found, labels, self._classes, average="macro", validate_args=False)
        self.log("val_f1", float(f1))
        if self._classes > TOP:
            self.log("val_top5", in_top5 / number)
        self.log("val_loss", loss / number)
        self.log("train_loss", float(self._train_loss) / max(1, self.trainer.num_training_batches), sync_dist=True)
        self.log("train_accuracy", float(self._train_found) / max(1, self._train_seen), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.candidate, self.recipe, fused=self.device.type in ("cpu", "cuda"))
        scheduler = make_schedule(optimizer, self.recipe, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _in_top5(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the class is among the likeliest: bool (batch,)."""
    top = logits.topk(min(TOP, logits.shape[1]), dim=1).indices
    return (top == labels[:, None]).any(dim=1)


def make_optimizer(network: nn.Module, recipe: Recipe, *, fused: bool) -> torch.optim.Optimizer:
    """The recipe's optimizer; weight decay acts on weights, not on biases and norms."""
    decayed = [p for p in network.parameters() if p.requires_grad and p.dim() > 1]
    plain = [p for p in network.parameters() if p.requires_grad and p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if recipe.optimizer == "sgd":
        nesterov = recipe.momentum > 0
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov, fused=fused)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, fused=fused)
    if ":" not in recipe.optimizer:
        raise ConfigError(f"optimizer is {recipe.optimizer!r}", allowed=("sgd", "adamw", "package.module:Optimizer"))
    optimizer: torch.optim.Optimizer = load(recipe.optimizer)(groups, lr=recipe.lr)
    return optimizer


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> lr_scheduler.LRScheduler:
    """The recipe's learning rate over so many optimizer steps."""
    if recipe.schedule == "onecycle":
        rise = min(1.0, max(recipe.warmup, 2 / (steps + 1)))  # torch divides by the length of the rise
        return lr_scheduler.OneCycleLR(
            optimizer, max_lr=recipe.lr, total_steps=steps + 1, pct_start=rise, cycle_momentum=False
        )
    if recipe.schedule == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    return lr_scheduler.ConstantLR(optimizer, factor=1.0)
