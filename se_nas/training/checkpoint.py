"""Checkpoints inside a training, so that a crash costs minutes and not hours.

A training leaves its whole state (network, optimizers, schedules, curve, random states) after an epoch when the last
checkpoint is old enough. The same training (equal identity and versions), started again, goes on from there and ends
with the very numbers that it would have had.
"""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn

from se_nas.core.files import atomically
from se_nas.data.accelerators import random_states, set_random_states

FOLDER = "checkpoints"


class Checkpoints(pl.Callback):
    """Writes the checkpoints of one training, and reads the last one.

    Parameters
    ----------
    file:
        Where the checkpoint lies. It is written in one piece and read as tensors and plain values only.
    minutes:
        Age of the last checkpoint (or of the start) from which an epoch is followed by a new one; 0: never write.

    Attributes
    ----------
    state:
        What `read` found, or None.
    pieces:
        Into how many pieces each batch is cut; see `train`.
    notes:
        What happened on the way, in words, in earlier attempts too.
    seconds_before:
        Seconds that earlier attempts had spent when they left the checkpoint.
    """

    def __init__(self, file: Path, *, fingerprint: str, minutes: float) -> None:
        self.file = file
        self.fingerprint = fingerprint
        self.minutes = minutes
        self.pieces = 1
        self.state: dict[str, Any] | None = None
        self.notes: list[str] = []
        self.seconds_before = 0.0
        self._restored = False
        self._start = self._written = time.monotonic()

    @property
    def epochs(self) -> int:
        """Epochs that the checkpoint has behind it."""
        return 0 if self.state is None else int(self.state["epoch"]) + 1

    def read(self) -> None:
        """Look for a checkpoint of this very training: its state, pieces, notes and the time that was spent."""
        self.drop_state()
        if not self.file.is_file():
            return
        try:
            state = torch.load(self.file, map_location="cpu", weights_only=True)
            own = state["se_nas"]
            if own["fingerprint"] != self.fingerprint:
                self.notes.append("the checkpoint is of another training and was ignored")
                return
            self.pieces, self.seconds_before, notes = int(own["pieces"]), float(own["seconds"]), list(own["notes"])
        except Exception as error:  # a broken file may raise anything
            self.notes.append(f"the checkpoint is broken and was ignored ({type(error).__name__})")
            return
        self.state = state
        self.notes += [*notes, f"continued after epoch {self.epochs} of an interrupted attempt"]

    def drop_state(self) -> None:
        """Begin at the beginning."""
        self.state, self.pieces, self.seconds_before = None, 1, 0.0

    def fits(self, module: nn.Module) -> bool:
        """Whether the state read is of a network with these very tensors; if not, it is dropped."""
        if self.state is None:
            return False
        shapes = {name: value.shape for name, value in module.state_dict().items()}
        if {name: value.shape for name, value in self.state["state_dict"].items()} == shapes:
            return True
        self.drop_state()
        self.notes[-1] = "the checkpoint is of another network and was ignored"
        return False

    def remove(self) -> None:
        """The training is over: nothing will go on from here."""
        self.file.unlink(missing_ok=True)

    def restore_random(self) -> None:
        """Set the random states of Python, NumPy and torch as they were, once, just before the first batch is made."""
        if self.state is None or self._restored:
            return
        self._restored = True
        kept = self.state["se_nas"]["random"]
        random.setstate((kept["python"][0], tuple(kept["python"][1]), kept["python"][2]))
        name, keys, *rest = kept["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(kept["torch"])
        set_random_states(kept.get("kind") or "cuda", kept["cuda"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.restore_random()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        last = trainer.current_epoch + 1 >= (trainer.max_epochs or 0)
        due = bool(self.minutes) and time.monotonic() - self._written >= 60 * self.minutes
        # All processes of a training on several GPUs must agree.
        if trainer.should_stop or last or not trainer.strategy.broadcast(due):
            return
        with atomically(self.file) if trainer.is_global_zero else contextlib.nullcontext(self.file) as temporary:
            trainer.save_checkpoint(temporary)
        self._written = time.monotonic()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        version, numbers, gauss = random.getstate()
        name, keys, *rest = np.random.get_state(legacy=True)
        kind, states = random_states()
        checkpoint["se_nas"] = {
            "fingerprint": self.fingerprint,
            "pieces": self.pieces,
            "notes": self.notes,
            "seconds": self.seconds_before + time.monotonic() - self._start,
            "random": {
                "python": [version, list(numbers), gauss],
                "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
                "torch": torch.get_rng_state(),
                "cuda": states,  # of accelerators of any kind: the name is that of the first release
                "kind": kind,
            },
        }
