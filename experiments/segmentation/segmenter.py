"""A user's own code: a U-Net, and the LightningModule that trains it. Neither knows of se-nas."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional


class Double(nn.Sequential):
    """Two convolutions with norm and activation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        super().__init__(*layers)


class UNet(nn.Module):
    """Three levels down, two up, with skips (Ronneberger et al., arXiv 1505.04597, made small)."""

    def __init__(self, num_classes: int = 2, in_channels: int = 1, width: int = 8) -> None:
        super().__init__()
        self.down = nn.ModuleList([Double(in_channels, width), Double(width, 2 * width), Double(2 * width, 4 * width)])
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2), nn.ConvTranspose2d(2 * width, width, 2, stride=2)]
        )
        self.merge = nn.ModuleList([Double(4 * width, 2 * width), Double(2 * width, width)])
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down[0](x)
        second = self.down[1](self.pool(first))
        x = self.up[0](self.down[2](self.pool(second)))
        x = self.up[1](self.merge[0](torch.cat([second, x], 1)))
        return self.head(self.merge[1](torch.cat([first, x], 1)))


class LitSegmenter(pl.LightningModule):
    """Cross-entropy and Dice loss, Dice of the whole validation set as metric, AdamW with a falling rate."""

    metric = "val_dice"
    direction = "maximize"

    def __init__(self, network: nn.Module, steps: int, lr: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["network"])
        self.network = network
        self.overlap = torch.zeros(2)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def training_step(self, batch: Any, index: int) -> Tensor:
        images, masks = batch
        logits = self(images)
        share = logits.softmax(1)[:, 1]
        dice = 1 - (2 * (share * masks).sum() + 1) / (share.sum() + masks.sum() + 1)
        loss = functional.cross_entropy(logits, masks) + dice
        self.log("train_loss", loss)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.overlap = torch.zeros(2, device=self.device)

    def validation_step(self, batch: Any, index: int) -> None:
        images, masks = batch
        logits = self(images)
        found = logits.argmax(1)
        self.overlap += torch.stack([2 * (found * masks).sum(), found.sum() + masks.sum()])
        self.log("val_loss", functional.cross_entropy(logits, masks))

    def on_validation_epoch_end(self) -> None:
        self.log("val_dice", self.overlap[0] / self.overlap[1].clamp(min=1))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.hparams["steps"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
