"""Evaluations on a Ray cluster, or on one that is started on this machine for the search.

One actor for each slot (`se_nas.executors.remote.Worker`), supervised by a thread of the driver that sends it
requests, answers its reports and writes the files that come back. Data go into the object store once; workers of one
machine share them there. A worker that dies fails its evaluation only; one that goes away with its machine does not
even fail it: the placement is tried again as if nothing had been. A slot gets a new worker as soon as the
cluster has room for one.
"""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from se_nas.core.errors import ConfigError, RunError, SeNasError, WorkerLostError
from se_nas.core.files import weights_file
from se_nas.core.placement import Placement
from se_nas.core.serialization import checksum
from se_nas.core.trial import Request, Verdict
from se_nas.executors.cluster import Reservation, cannot_start, connect, disconnect, is_lost, nodes, resources_text
from se_nas.executors.output import printed_since, with_output
from se_nas.executors.remote import Worker
from se_nas.executors.shipment import Shipment, pack
from se_nas.executors.slots import EndedByItselfError, Evaluate, Message, SlotExecutor, WorkerDiedError

PATIENCE = 300.0
"""Seconds without a single worker after which evaluations fail. Clusters that grow on demand take minutes."""

READING = 30.0
"""Seconds that another machine has to say what a worker there printed."""

RESTART_PAUSE = 2.0
"""Seconds before a worker is started again where one could not start."""


class RayExecutor(SlotExecutor):
    """One worker for each device given.

    Parameters
    ----------
    devices:
        One for each slot, as `find_slots` returns them.
    address:
        ``HOST:PORT`` or ``auto``, of a cluster that this machine belongs to. Default: that of the variable
        ``RAY_ADDRESS``, or a cluster of this machine alone, which ends with this process.
    cpus_per_trial, gpus_per_trial:
        What each evaluation reserves. Fractions of a GPU let several share one; default one whole GPU where
        the cluster has any.
    runtime_env:
        Ray's, for what else the workers need: ``pip``, ``env_vars``, ``working_dir``. The user's code in Python files
        is sent without it.
    patience:
        Seconds without any worker after which evaluations fail.
    """

    def __init__(
        self,
        devices: Sequence[str],
        address: str | None = None,
        cpus_per_trial: float = 1,
        gpus_per_trial: float | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._ray = connect(address, runtime_env)
        share = Reservation.of(devices[0], cpus_per_trial, gpus_per_trial)
        share.check_room(self._ray, len(devices))
        self._threads_each = max(1, int(cpus_per_trial))
        self._actors = self._ray.remote(Worker).options(
            **share.options, max_restarts=0, scheduling_strategy="SPREAD"
        )  # fmt: skip
        self._patience = patience
        self._machines: dict[int, str] = {}
        self._printed: dict[int, dict[str, int]] = {}
        self._last_worker = time.monotonic()
        self._shipped: dict[str, tuple[Shipment, list[Any]]] = {}
        self._shipping = threading.Lock()
        super().__init__(devices)

    @classmethod
    def find_slots(
        cls,
        *,
        device: str,
        workers: int | None,
        address: str | None = None,
        cpus_per_trial: float = 1,
        gpus_per_trial: float | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> tuple[str, ...]:
        """As many slots as the cluster has room for, or `workers`. Every worker sees its own GPU as ``cuda:0``."""
        Reservation.of("cuda" if gpus_per_trial else "cpu", cpus_per_trial, gpus_per_trial)
        if device.startswith("cuda:"):
            raise ConfigError(f"device is {device!r}", allowed=["auto", "cpu", "cuda"], hint="Ray chooses the GPU")
        ray = connect(address, runtime_env)
        if device == "auto":
            device = "cuda" if gpus_per_trial or ray.cluster_resources().get("GPU") else "cpu"
        name = "cuda:0" if device == "cuda" else device
        share = Reservation.of(name, cpus_per_trial, gpus_per_trial)
        return (name,) * share.check_room(ray, workers)

    @classmethod
    def ask_machines(
        cls,
        function: Callable[..., Any],
        values: tuple[Any, ...],
        *,
        address: str | None = None,
        cpus_per_trial: float = 1,
        gpus_per_trial: float | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        patience: float = PATIENCE,
    ) -> list[Any]:
        """What a function returns on every machine with a slot; RunError if one does not answer."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ray = connect(address, runtime_env)
        share = Reservation.of(str(values[0]), cpus_per_trial, gpus_per_trial)
        remote = ray.remote(function)
        answers = []
        for node in nodes(ray):
            if share.room(node["Resources"]):
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
                answers.append(remote.options(**share.options, scheduling_strategy=there).remote(*values))
        try:
            return list(ray.get(answers, timeout=patience))
        except ray.exceptions.RayError as error:
            raise cannot_start(error) from error

    def shutdown(self, *, wait: bool = True) -> None:
        """End all workers, and the cluster if it is ours."""
        super().shutdown(wait=wait)
        disconnect()

    def _kill(self, worker: Any) -> None:
        self._ray.kill(worker)

    def _drop(self, slot: int) -> None:
        self._last_worker = time.monotonic()
        super()._drop(slot)

    def _close(self, slot: int) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.get(self._workers[slot].close.remote(), timeout=10)
        self._drop(slot)

    def _ready(self, slot: int) -> bool:
        """Have a worker at this slot, waited for if need be; False at the end."""
        if slot in self._workers:
            return True
        while not self._ending:
            worker = self._actors.remote()
            ready = worker.__ray_call__.remote(_machine)
            while not self._ending and not self._ray.wait([ready], timeout=0.5)[0]:
                if not self._workers and time.monotonic() - self._last_worker > self._patience:
                    self._fail_waiting(
                        RunError(
                            f"the cluster gave no worker within {self._patience:.0f} s",
                            where=f"the Ray cluster ({resources_text(self._ray)})",
                            hint="are its machines up, or busy with other work? The same command goes on "
                            "where this one stopped",
                        )
                    )
            if not self._ray.wait([ready], timeout=0)[0]:
                self._ray.kill(worker)
                return False
            try:
                self._machines[slot] = self._ray.get(ready)
            except self._ray.exceptions.RayError as error:
                if not self._workers and not is_lost(self._ray, error, None):
                    self._fail_waiting(cannot_start(error))
                time.sleep(RESTART_PAUSE)
                continue
            self._workers[slot] = worker
            return True
        return False

    def _fail_waiting(self, error: SeNasError) -> None:
        """Fail what is queued: there is nobody to do it."""
        with contextlib.suppress(queue.Empty):
            while True:
                task = self._tasks.get_nowait()
                if task is not None:
                    task.future.set_exception(error)

    def _begin(self, slot: int, evaluate: Evaluate, request: Request) -> Message:
        request = replace(request, threads=self._threads_each)
        worker = self._workers[slot]
        shipment, references = self._ship(request)
        self._printed.pop(slot, None)
        self._printed[slot] = self._exchange(slot, worker.receive.remote(shipment, *references))
        started = worker.start.remote(evaluate, request, shipment.key, _left(request))
        message: Message = self._exchange(slot, started)
        return message

    def _answer(self, slot: int, verdict: Verdict) -> Message:
        message: Message = self._exchange(slot, self._workers[slot].answer.remote(verdict))
        return message

    def _next(self, slot: int) -> Message:
        message: Message = self._exchange(slot, self._workers[slot].next.remote())
        return message

    def _exchange(self, slot: int, reference: Any) -> Any:
        """What a worker answers."""
        try:
            message = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            if is_lost(self._ray, error, self._machines[slot]):
                raise WorkerLostError("its machine went away") from error
            raise WorkerDiedError(self._death(slot, error)) from error
        if isinstance(message, Message) and isinstance(ended := message.content, EndedByItselfError):
            return replace(message, content=EndedByItselfError(with_output(ended.what, self._output(slot))))
        return message

    def _death(self, slot: int, error: Exception) -> str:
        """Why a worker ended, in words: Ray is not told its exit code."""
        text = " ".join(str(error).split())
        process = re.search(r"\bpid: (\d+)", text)
        kind = re.search(r"Worker exit type: (\w+)", text)
        what = (
            f"worker{f' {process[1]}' if process else ''} ended unexpectedly, with an exit code that Ray does not tell"
        )
        if kind is None or kind[1] != "SYSTEM_ERROR":  # it was ended, or could not begin: Ray knows why
            what = f"worker ended: {text.partition('Worker exit type: ')[2][:200] or type(error).__name__}"
        return with_output(what, self._output(slot))

    def _output(self, slot: int) -> str:
        """What the worker of a slot printed last in this evaluation, read on its machine; empty if that is gone."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        files = self._printed.get(slot, {})
        if not files or any(Path(name).is_file() for name in files):
            return printed_since(files)
        there = NodeAffinitySchedulingStrategy(self._machines[slot], soft=False)
        reading = self._ray.remote(printed_since).options(num_cpus=0, scheduling_strategy=there)
        try:
            found: str = self._ray.get(reading.remote(files), timeout=READING)
        except self._ray.exceptions.RayError:
            return ""
        return found

    def _ship(self, request: Request) -> tuple[Any, list[Any]]:
        """What a request needs, put into the object store by the first one that does."""
        nothing = Placement(choices={})
        common = replace(request, trial=0, attempt=0, placement=nothing, identity=replace(request.identity, key=""))
        key = checksum(common)
        with self._shipping:
            if key not in self._shipped:
                shipment, arrays = pack(request)
                self._shipped[key] = shipment, [self._ray.put(array) for array in arrays]
            return self._shipped[key]


def _machine(_: Any) -> str:
    """Run by a worker: the machine that it is on."""
    import ray

    node: str = ray.get_runtime_context().get_node_id()
    return node


def _left(request: Request) -> dict[str, bytes]:
    """What there is of this training already: checkpoints and trained weights, by their names in the run folder."""
    folder = Path(request.folder)
    found = [*(folder / "checkpoints").glob(f"{checksum(request.identity)}.*")]
    found.append(weights_file(folder, request.trial, request.identity.phase))
    return {str(file.relative_to(folder)): file.read_bytes() for file in found if file.is_file()}
