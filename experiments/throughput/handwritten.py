"""(b) A careful loop by hand, without any framework: one process, one thread, the precision that se-nas chooses.

All images are normalised once and stay in memory, batches are augmented whole, the optimizer is fused, nothing is
logged and nothing is waited for in a step, validation runs in large batches after every epoch.
"""

from __future__ import annotations

import os

import torch
from common import Clock, Job, listed
from torch import Tensor, nn
from torch.nn import functional

from se_nas.training.trainer import choose_precision, validation_batch, wants_channels_last


class Loop:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.device = torch.device(job.device)
        self.precision = choose_precision("auto", self.device)
        last = wants_channels_last(self.precision, self.device)
        self.format = torch.channels_last if last else torch.contiguous_format
        mean, std = (v.reshape(1, -1, 1, 1).to(self.device) for v in job.statistics())
        self.parts = {}
        for part in ("train", "val"):
            images, labels = (torch.from_numpy(a).to(self.device) for a in job.arrays(part))
            normal = torch.cat([(chunk.float() - mean) / std for chunk in images.split(1024)])
            self.parts[part] = normal, labels

    def augmented(self, x: Tensor) -> Tensor:
        """Each image moved by up to an eighth of its side, zeros from outside, and perhaps mirrored."""
        n, _, height, width = x.shape
        rows, columns = (torch.arange(side, device=x.device) for side in (height, width))
        reach = max(1, height // 8), max(1, width // 8)
        padded = functional.pad(x, (reach[1], reach[1], reach[0], reach[0]))
        rows = rows + torch.randint(0, 2 * reach[0] + 1, (n, 1), device=x.device)
        columns = columns.expand(n, -1)
        if self.job.augment == "shift-flip":
            mirrored = torch.rand((n, 1), device=x.device) < 0.5
            columns = torch.where(mirrored, width - 1 - columns, columns)
        columns = columns + torch.randint(0, 2 * reach[1] + 1, (n, 1), device=x.device)
        index = torch.arange(n, device=x.device)[:, None, None]
        return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def train(self, model: nn.Module) -> float:
        """Final validation accuracy."""
        recipe = self.job.recipe
        model = model.to(self.device, memory_format=self.format)
        x, y = self.parts["train"]
        steps = len(y) // recipe.batch_size
        decayed = [p for p in model.parameters() if p.dim() > 1]
        plain = [p for p in model.parameters() if p.dim() <= 1]
        optimizer = torch.optim.SGD(
            [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=recipe.lr, momentum=recipe.momentum, nesterov=True, fused=True,
        )  # fmt: skip
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=recipe.lr, total_steps=steps * recipe.epochs + 1, pct_start=recipe.warmup,
            cycle_momentum=False,
        )  # fmt: skip
        cast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        accuracy = 0.0
        for _ in range(recipe.epochs):
            model.train()
            for rows in torch.randperm(len(y), device=self.device)[: steps * recipe.batch_size].split(
                recipe.batch_size
            ):
                images = self.augmented(x[rows]) if self.job.augment != "none" else x[rows]
                with cast:
                    logits = model(images.contiguous(memory_format=self.format))
                    loss = functional.cross_entropy(logits, y[rows], label_smoothing=recipe.label_smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            accuracy = self.validate(model, cast)
        return accuracy

    def validate(self, model: nn.Module, cast: torch.autocast) -> float:
        model.eval()
        images, labels = self.parts["val"]
        size = validation_batch(self.device)
        with torch.inference_mode(), cast:
            right = [
                (model(x.contiguous(memory_format=self.format)).argmax(1) == y).sum()
                for x, y in zip(images.split(size), labels.split(size), strict=True)
            ]
        return float(torch.stack(right).sum()) / len(labels)


def run(job: Job) -> dict:
    torch.set_num_threads(1)
    space, loop = job.space(), Loop(job)
    clock = Clock(os.getpid())
    clock.start()
    accuracies = []
    for levels in listed(space, job.candidates):
        torch.manual_seed(0)
        accuracies.append(loop.train(job.network(0, space, space.placement(levels))))
    clock.stop()
    return {"seconds": clock.seconds, "cpu": clock.cpu, "accuracies": accuracies}


def accuracies(job: Job, seeds: int) -> list[float]:
    """Final validation accuracies of SE everywhere at r=16, one for each seed."""
    torch.set_num_threads(1)
    space, loop = job.space(), Loop(job)
    found = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        found.append(loop.train(job.network(seed, space, space.reference)))
    return found
