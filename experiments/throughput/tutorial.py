"""(a) The script that a user writes from the tutorials of Optuna, Lightning and fvcore, with their default settings.

Float32, DataLoader, images transformed one by one, logger, progress bar, checkpoints and summary as they come, metrics
logged in every step, threads as torch chooses them, fvcore on every candidate.
"""

from __future__ import annotations

import os
import tempfile
import warnings

import optuna
import pytorch_lightning as pl
import torch
from common import Clock, Job, listed
from fvcore.nn import FlopCountAnalysis
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset


class Images(Dataset):
    def __init__(self, job: Job, part: str, *, train: bool) -> None:
        self.images, self.labels = job.arrays(part)
        self.mean, self.std = (v.reshape(-1, 1, 1) for v in job.statistics())
        self.augment = job.augment if train else "none"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = (torch.from_numpy(self.images[index]).float() - self.mean) / self.std
        if self.augment != "none":
            height, width = image.shape[1:]
            reach = max(1, height // 8), max(1, width // 8)
            padded = functional.pad(image, (reach[1], reach[1], reach[0], reach[0]))
            top, left = (int(torch.randint(0, 2 * r + 1, ())) for r in reach)
            image = padded[:, top : top + height, left : left + width]
            if self.augment == "shift-flip" and torch.rand(()) < 0.5:
                image = image.flip(-1)
        return image, int(self.labels[index])


class Classifier(pl.LightningModule):
    def __init__(self, model: torch.nn.Module, job: Job, steps: int) -> None:
        super().__init__()
        self.model, self.recipe, self.steps = model, job.recipe, steps

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.model(x)
        loss = functional.cross_entropy(logits, y, label_smoothing=self.recipe.label_smoothing)
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_accuracy", (logits.argmax(1) == y).float().mean(), prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self.model(x)
        self.log("val_loss", functional.cross_entropy(logits, y), prog_bar=True)
        self.log("val_accuracy", (logits.argmax(1) == y).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        r = self.recipe
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        plain = [p for p in self.model.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": r.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        optimizer = torch.optim.SGD(groups, lr=r.lr, momentum=r.momentum, nesterov=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=r.lr, total_steps=self.steps + 1, pct_start=r.warmup, cycle_momentum=False
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def train_one(model: torch.nn.Module, job: Job) -> float:
    """Final validation accuracy of one candidate."""
    size = job.recipe.batch_size
    train = DataLoader(Images(job, "train", train=True), batch_size=size, shuffle=True, drop_last=True)
    val = DataLoader(Images(job, "val", train=False), batch_size=size)
    module = Classifier(model, job, len(train) * job.epochs)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(max_epochs=job.epochs, default_root_dir=folder, accelerator="auto")
        trainer.fit(module, train, val)
    return float(trainer.callback_metrics["val_accuracy"])


def run(job: Job) -> dict:
    warnings.simplefilter("ignore")
    space = job.space()
    study = optuna.create_study(directions=["maximize", "minimize"])
    for levels in listed(space, job.candidates):
        study.enqueue_trial(levels)
    images, _ = job.arrays("val")
    example = torch.from_numpy(images[:1]).float()

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        levels = {n: trial.suggest_int(n, 0, len(v) - 1) for n, v in space.parameters.items()}
        model = job.network(0, space, space.placement(levels))
        flops = FlopCountAnalysis(model.eval(), example).total()
        return train_one(model.train(), job), flops

    clock = Clock(os.getpid())
    clock.start()
    study.optimize(objective, n_trials=job.candidates)
    clock.stop()
    return {"seconds": clock.seconds, "cpu": clock.cpu, "accuracies": [t.values[0] for t in study.trials]}


def accuracies(job: Job, seeds: int) -> list[float]:
    """Final validation accuracies of SE everywhere at r=16, one for each seed."""
    warnings.simplefilter("ignore")
    space = job.space()
    found = []
    for seed in range(seeds):
        pl.seed_everything(seed, verbose=False)
        found.append(train_one(job.network(seed, space, space.reference), job))
    return found
