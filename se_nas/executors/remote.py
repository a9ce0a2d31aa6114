"""The worker of a slot on any machine: it has a folder of its own, and sends back what evaluations leave there.

It knows nothing of what carries its messages. Every call is answered with a message: the report of an epoch,
the result, or an error. Files that were written meanwhile come with it.
"""

from __future__ import annotations

import importlib
import os
import queue
import shutil
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from se_nas.core.errors import TrainingError
from se_nas.core.files import runs
from se_nas.core.trial import Request, Verdict
from se_nas.executors.local import PRELOAD
from se_nas.executors.memory import settle, tidy
from se_nas.executors.output import printed_to
from se_nas.executors.shipment import Shipment, relocated, unpack
from se_nas.executors.slots import Evaluate, Message, carried

PREFIX = "se-nas-worker-"


class Worker:
    """One slot. `receive` comes before the first `start`; after a report, `answer` goes on, after a sign `next`."""

    def __init__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, and the driver decides
        # Shared arrays are read-only; nobody writes to them. For good: this process is the worker's alone.
        warnings.filterwarnings("ignore", message=".*NumPy array is not writable.*")
        for name in PRELOAD:
            importlib.import_module(name)
        settle()
        self._scratch = _scratch_folder()
        self._shipments: dict[str, Shipment] = {}
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._verdicts: queue.SimpleQueue[Verdict] = queue.SimpleQueue()

    def receive(self, shipment: Shipment, *arrays: np.ndarray) -> dict[str, int]:
        """Unpack a shipment once; returns where this process prints to, see `printed_to`."""
        if shipment.key not in self._shipments:
            unpack(shipment, arrays, self._scratch / shipment.key)
            self._shipments[shipment.key] = shipment
        return printed_to()

    def start(self, evaluate: Evaluate, request: Request, key: str, files: Mapping[str, bytes]) -> Message:
        """Begin an evaluation, with files that an earlier attempt left; returns its first message."""
        folder = self._scratch / key
        tray = _Tray(folder, keep=self._shipments[key].files)
        tray.fill(files)
        request = relocated(request, self._shipments[key], folder)
        threading.Thread(target=self._run, args=(evaluate, request, tray), name="evaluation", daemon=True).start()
        return self._messages.get()

    def answer(self, verdict: Verdict) -> Message:
        """Go on after a report; returns the next message."""
        self._verdicts.put(verdict)
        return self._messages.get()

    def next(self) -> Message:
        """The next message."""
        return self._messages.get()

    def close(self) -> None:
        """Remove the folder of this worker."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _run(self, evaluate: Evaluate, request: Request, tray: _Tray) -> None:
        try:
            result = evaluate(request, _QueueChannel(self._messages, self._verdicts, tray))
            self._messages.put(Message(kind="result", content=result, files=tray.news()))
        except BaseException as error:  # the driver decides what it means; it waits for a message
            self._messages.put(Message(kind="error", content=_portable(carried(error))))
        tidy()


@dataclass(frozen=True)
class _QueueChannel:
    messages: queue.SimpleQueue[Message]
    verdicts: queue.SimpleQueue[Verdict]
    tray: _Tray

    def report(self, epoch: int, metrics: Mapping[str, float]) -> Verdict:
        self.messages.put(Message(kind="report", content=(epoch, dict(metrics)), files=self.tray.news()))
        return self.verdicts.get()

    def alive(self, seen: Mapping[str, float]) -> None:
        self.messages.put(Message(kind="alive", content=dict(seen)))


class _Tray:
    """The files that an evaluation leaves in its folder, beside those that were shipped there."""

    def __init__(self, folder: Path, keep: Mapping[str, bytes]) -> None:
        self.folder = folder
        self._kept = set(keep)
        self._sent: dict[str, tuple[int, int]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for name in self._present():  # of the evaluation before
            (folder / name).unlink()

    def fill(self, files: Mapping[str, bytes]) -> None:
        for name, content in files.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(content)
        self._sent = self._present()

    def news(self) -> dict[str, bytes | None]:
        """Content of files that are new or changed since the last call; None for those that are gone.

        Oldest first, but results last in any case: they say that the others are there, and a clock may be set back.
        """
        present = self._present()
        new = {name: stamp for name, stamp in present.items() if self._sent.get(name) != stamp}
        changed = sorted(new, key=lambda name: (name.startswith("results/"), new[name], name))
        gone = self._sent.keys() - present.keys()
        self._sent = present
        return {name: (self.folder / name).read_bytes() for name in changed} | dict.fromkeys(gone)

    def _present(self) -> dict[str, tuple[int, int]]:
        found = {}
        for file in self.folder.rglob("*"):
            name = str(file.relative_to(self.folder))
            if file.is_file() and name not in self._kept and not file.name.startswith(".") and file.suffix != ".pyc":
                found[name] = (file.stat().st_mtime_ns, file.stat().st_size)
        return found


def _portable(error: Exception) -> Exception:
    """The error, if its class is known on the other side; errors of the disk tell whose disk it is."""
    if isinstance(error, OSError) and error.errno is not None:
        there = OSError(error.errno, f"{error.strerror} (on {socket.gethostname()})")
        there.of_the_run = getattr(error, "of_the_run", False)  # type: ignore[attr-defined]
        return there
    if type(error).__module__.partition(".")[0] in ("se_nas", "builtins"):
        return error
    return TrainingError(f"{type(error).__name__}: {error}")


def _scratch_folder() -> Path:
    """A new folder for this process; those of workers that were killed are removed."""
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        pid = old.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not runs(int(pid)):
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
