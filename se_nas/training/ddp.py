"""One candidate on several devices: one process for each (a *rank*), with Lightning's DDP and without its launchers.

Lightning's script launcher would run the user's script again, and its others need `multiprocessing`, whose workers
may have no children. So each rank is a process of its own, ``python -m se_nas.training.ddp_worker``, which is told
by a line on its standard input what to train, and tells in lines on its standard output what it sees. A rank ends when
its input does, and when one rank fails the others are ended.

What this means for the result: each rank trains on its share of every batch, so that together they see the batches
that one device would see; gradients are averaged. On GPUs BatchNorm has the statistics of the whole batch; on CPUs,
where torch cannot do that, those of the rank's share. Every rank validates on all validation images with the same
weights and BatchNorm statistics (DDP sends those of rank 0), so that a metric is exact whatever it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from se_nas.core.errors import TrainingError
from se_nas.core.protocols import Channel
from se_nas.core.serialization import to_plain
from se_nas.core.trial import Epoch, Request
from se_nas.data.shards import devices_of
from se_nas.training.pulse import Pulse


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a rank is told first."""

    request: Request
    rank: int
    pieces: int
    scratch: str
    """Folder of this training: where the ranks meet, and where rank 0 leaves the weights."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """What a rank tells: an epoch (rank 0, which then waits for the verdict), that it lives and where it is (rank 0),
    that it is done, or an error.

    ``end`` is the end of its output.
    """

    kind: Literal["epoch", "alive", "done", "error", "end"]
    epoch: int = 0
    metrics: dict[str, float] | None = None
    stopped: bool = False
    text: str = ""
    out_of_memory: bool = False


WEIGHTS = "weights.safetensors"


def synchronized(backbone: nn.Module) -> nn.Module:
    """The network with BatchNorm that takes the statistics of all ranks (GPUs only); its state dict stays as it is.

    To be called before SE blocks come in, since it makes new modules of those that may carry them.
    """
    network: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(backbone)  # type: ignore[no-untyped-call]  # of torch
    return network


class Ranks:
    """The processes of one training; a context manager, at whose end all of them are gone."""

    def __init__(self, request: Request, *, pieces: int = 1) -> None:
        self.request, self.pieces = request, pieces
        self.devices = devices_of(request.device)
        self._folder = tempfile.TemporaryDirectory(prefix="se-nas-ranks-")
        self.scratch = Path(self._folder.name)
        self.processes: list[subprocess.Popen[str]] = []
        self._listeners: list[threading.Thread] = []
        self._lines: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()

    @property
    def weights(self) -> Path:
        """Where rank 0 leaves the trained weights, until the context ends."""
        return self.scratch / WEIGHTS

    def __enter__(self) -> Ranks:
        for index in range(len(self.devices)):
            process = self._start(index)
            self.processes.append(process)
            self._listeners.append(threading.Thread(target=self._listen, args=(index, process), daemon=True))
            self._listeners[-1].start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
        for process, listener in zip(self.processes, self._listeners, strict=True):
            process.wait()
            listener.join()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()  # type: ignore[union-attr]  # both are pipes
        self._folder.cleanup()

    def train(self, channel: Channel) -> tuple[tuple[Epoch, ...], bool]:
        """Carry reports and verdicts until all ranks are done; as `se_nas.training.trainer.train`.

        Raises
        ------
        MemoryError
            If a rank ran out of memory.
        TrainingError
            If a rank failed or died.
        """
        curve: list[Epoch] = []
        stopped = False
        pulse = Pulse(channel)
        waiting = set(range(len(self.devices)))
        while waiting:
            index, line = self._lines.get()
            message = Message(**json.loads(line)) if line else self._death(index, done=index not in waiting)
            if message.kind == "epoch":
                metrics = message.metrics or {}
                curve.append(Epoch(epoch=message.epoch, metrics=metrics))
                _write(self.processes[index], {"verdict": channel.report(message.epoch, metrics)})
            elif message.kind == "alive":
                pulse.pass_on(message.metrics or {})
            elif message.kind == "done":
                waiting.remove(index)
                stopped = stopped or message.stopped
            elif message.kind == "error":
                if message.out_of_memory:
                    raise MemoryError(message.text)
                raise TrainingError(self._cause(message.text))
        return tuple(curve), stopped

    def _start(self, index: int) -> subprocess.Popen[str]:
        threads = str(self.request.threads)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "LOCAL_RANK": str(index),  # so that Lightning starts no processes itself
            "NODE_RANK": "0",
        }
        with (self.scratch / f"{index}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "se_nas.training.ddp_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        start = Start(request=self.request, rank=index, pieces=self.pieces, scratch=str(self.scratch))
        _write(process, to_plain(start))
        return process

    def _listen(self, index: int, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            self._lines.put((index, line))
        self._lines.put((index, ""))

    def _cause(self, text: str) -> str:
        """What a rank tells, or the death of another one, which the first sees as a lost connection only."""
        killed = [i for i, process in enumerate(self.processes) if (process.poll() or 0) < 0]
        return self._death(killed[0], done=False).text if killed else text

    def _death(self, index: int, *, done: bool) -> Message:
        if done:
            return Message(kind="end")
        code = self.processes[index].wait()
        log = (self.scratch / f"{index}.log").read_text(errors="replace").strip()
        last = log.splitlines()[-1] if log else "it said nothing"
        return Message(kind="error", text=f"rank {index} of {len(self.devices)} ended with exit code {code}: {last}")


def _write(process: subprocess.Popen[str], value: Any) -> None:
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):  # it is dead; its listener says so
            process.stdin.write(json.dumps(value) + "\n")
            process.stdin.flush()
