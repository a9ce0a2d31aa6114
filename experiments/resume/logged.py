"""The built-in task, which also writes down when a training of a search or a confirm begins and ends, and where."""

from __future__ import annotations

import os
from typing import Any

import torch

from se_nas.training.classification import Classification, ClassificationModule

LOG = "RESUME_LOG"
"""The variable that names the file: a line ``begin PID NETWORK SEED`` and a line ``end PID NETWORK SEED`` each."""


class Logged(Classification):
    def module(self, candidate: Any, recipe: Any, **facts: Any) -> ClassificationModule:
        return LoggedModule(candidate, recipe, steps=facts["steps"], class_counts=facts["class_counts"])


class LoggedModule(ClassificationModule):
    def on_fit_start(self) -> None:
        self.seed = torch.initial_seed()
        self._log("begin")

    def on_fit_end(self) -> None:
        self._log("end")

    def _log(self, what: str) -> None:
        if self.trainer.fast_dev_run:  # the rehearsal before a search
            return
        blocks = [f"{name}={m.fc1.out_features}" for name, m in self.candidate.named_modules() if hasattr(m, "fc1")]
        line = f"{what} {os.getpid()} {','.join(blocks) or 'none'} {self.seed}\n"
        descriptor = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line.encode())  # one write: a kill leaves no half of it
        os.close(descriptor)
