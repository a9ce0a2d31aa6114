"""Evaluations on a Ray cluster, or on one that is started on this machine for the search.

One actor for each slot (`se_nas.executors.remote.Worker`), supervised by a thread of the driver that sends it
requests, answers its reports and writes the files that come back. Data go into the object store once; workers of one
machine share them there. A worker that dies fails its evaluation only; one that goes away with its machine does not
even fail it: the placement is tried again as if nothing had been. A slot gets a new worker as soon as the
cluster has room for one.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from se_nas.errors import ConfigError, PluginError, RunError, SeNasError, WorkerLostError
from se_nas.executors.local import WorkerDiedError
from se_nas.executors.remote import Message, Worker
from se_nas.executors.shipment import Shipment, pack
from se_nas.files import weights_file, write_atomically
from se_nas.plugins import Channel
from se_nas.records import Placement, Request, Result, Verdict, checksum

PATIENCE = 300.0
"""Seconds without a single worker after which evaluations fail. Clusters that grow on demand take minutes."""

RESTART_PAUSE = 2.0
"""Seconds before a worker is started again where one could not start."""

Report = Callable[[int, Mapping[str, float]], Verdict]
_Task = tuple[Callable[[Request, Channel], Result], Request, Report, "Future[Result]"]


class RayExecutor:
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
        share = Share.of(devices[0], cpus_per_trial, gpus_per_trial)
        share.check_room(self._ray, len(devices))
        self.devices = tuple(devices)
        self.slots = len(self.devices)
        self._threads_each = max(1, int(cpus_per_trial))
        self._actors = self._ray.remote(Worker).options(
            **share.options, max_restarts=0, scheduling_strategy="SPREAD"
        )  # fmt: skip
        self._patience = patience
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._ending = False
        self._workers: dict[int, Any] = {}
        self._machines: dict[int, str] = {}
        self._last_worker = time.monotonic()
        self._shipped: dict[str, tuple[Shipment, list[Any]]] = {}
        self._shipping = threading.Lock()
        self._threads = [
            threading.Thread(target=self._serve, args=(slot,), name=f"se-nas slot {slot}", daemon=True)
            for slot in range(self.slots)
        ]
        for thread in self._threads:
            thread.start()

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
        Share.of("cuda" if gpus_per_trial else "cpu", cpus_per_trial, gpus_per_trial)
        if device.startswith("cuda:"):
            raise ConfigError(f"device is {device!r}", allowed=["auto", "cpu", "cuda"], hint="Ray chooses the GPU")
        ray = connect(address, runtime_env)
        if device == "auto":
            device = "cuda" if gpus_per_trial or ray.cluster_resources().get("GPU") else "cpu"
        name = "cuda:0" if device == "cuda" else device
        share = Share.of(name, cpus_per_trial, gpus_per_trial)
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
        share = Share.of(str(values[0]), cpus_per_trial, gpus_per_trial)
        remote = ray.remote(function)
        answers = []
        for node in _nodes(ray):
            if share.room(node["Resources"]):
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
                answers.append(remote.options(**share.options, scheduling_strategy=there).remote(*values))
        try:
            return list(ray.get(answers, timeout=patience))
        except ray.exceptions.RayError as error:
            raise _cannot_start(error) from error

    def submit(
        self, evaluate: Callable[[Request, Channel], Result], request: Request, report: Report
    ) -> Future[Result]:
        """Queue an evaluation. `report` is called in a thread of this process, between epochs."""
        future: Future[Result] = Future()
        self._tasks.put((evaluate, request, report, future))
        return future

    def shutdown(self, *, wait: bool = True) -> None:
        """End all workers: after what they are doing, or (`wait` false) at once; and the cluster, if it is ours."""
        self._ending = True
        for _ in self._threads:
            self._tasks.put(None)
        if not wait:
            for worker in list(self._workers.values()):
                self._ray.kill(worker)
        for thread in self._threads:
            thread.join()
        disconnect()

    def _serve(self, slot: int) -> None:
        """Keep a worker at this slot and hand it one task after the other."""
        while self._start(slot):
            task = self._tasks.get()
            if task is None:
                break
            evaluate, request, report, future = task
            if self._ending:
                future.cancel()
                continue
            request = replace(request, device=self.devices[slot], threads=self._threads_each)
            try:
                result = self._converse(slot, (evaluate, request), report)
            except (WorkerDiedError, WorkerLostError) as error:
                self._forget(slot)
                future.set_exception(error)
            except Exception as error:  # raised by the evaluation: carried to whoever asks for the result
                future.set_exception(error)
            else:
                future.set_result(result)
        if (worker := self._workers.get(slot)) is not None:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.get(worker.close.remote(), timeout=10)
            self._forget(slot)

    def _forget(self, slot: int) -> None:
        self._last_worker = time.monotonic()
        self._ray.kill(self._workers.pop(slot))

    def _start(self, slot: int) -> bool:
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
                            where=f"the Ray cluster ({_resources(self._ray)})",
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
                if not self._workers and not _is_lost(self._ray, error, None):
                    self._fail_waiting(_cannot_start(error))
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
                    task[3].set_exception(error)

    def _converse(
        self, slot: int, task: tuple[Callable[[Request, Channel], Result], Request], report: Report
    ) -> Result:
        """Send a task, answer its reports, write its files, return its result or raise its error."""
        evaluate, request = task
        worker = self._workers[slot]
        folder = Path(request.folder)
        shipment, references = self._ship(request)
        self._exchange(slot, worker.receive.remote(shipment, *references))
        message = self._exchange(slot, worker.start.remote(evaluate, request, shipment.key, _left(request)))
        while message.kind == "report":
            _keep(folder, message)
            try:
                answer = report(*message.content)
            except Exception as error:  # the worker waits for an answer that will not come
                raise WorkerDiedError(f"the report of an epoch failed: {type(error).__name__}: {error}") from error
            message = self._exchange(slot, worker.answer.remote(answer))
        if message.kind == "error":
            raise message.content
        _keep(folder, message)
        result: Result = message.content
        return result

    def _exchange(self, slot: int, reference: Any) -> Message:
        """What a worker answers."""
        try:
            message: Message = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            if _is_lost(self._ray, error, self._machines[slot]):
                raise WorkerLostError("its machine went away") from error
            reason = str(error).partition("Worker exit type: ")[2].splitlines() or [type(error).__name__]
            raise WorkerDiedError(f"worker ended: {reason[0][:200]}") from error
        return message

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


@dataclass(frozen=True)
class Share:
    """What one evaluation reserves."""

    cpus: float
    gpus: float

    @classmethod
    def of(cls, device: str, cpus: float, gpus: float | None) -> Share:
        wants_gpu = device.startswith("cuda")
        if not isinstance(cpus, int | float) or not cpus > 0:
            raise ConfigError(f"cpus_per_trial is {cpus!r}", allowed=["a number above 0"])
        if gpus is None:
            gpus = 1.0 if wants_gpu else 0.0
        if not isinstance(gpus, int | float) or not (0 <= gpus <= 1 or float(gpus).is_integer()):
            raise ConfigError(f"gpus_per_trial is {gpus!r}", allowed=["a number from 0 to 1", "a whole number"])
        if wants_gpu != (gpus > 0):
            raise ConfigError(f"gpus_per_trial is {gpus!r} with device {device.partition(':')[0]!r}")
        return cls(cpus=float(cpus), gpus=float(gpus))

    @property
    def options(self) -> dict[str, float]:
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}

    def room(self, resources: Mapping[str, float]) -> int:
        """How many evaluations a machine has room for; one that shares a GPU does not span two."""
        room = _times(resources.get("CPU", 0.0), self.cpus)
        if not self.gpus:
            return room
        gpus = resources.get("GPU", 0.0)
        per_gpu = int(gpus) * _times(1.0, self.gpus) if self.gpus <= 1 else _times(gpus, self.gpus)
        return min(room, per_gpu)

    def check_room(self, ray: Any, wanted: int | None) -> int:
        """The number of slots; ConfigError if that many can never be."""
        most = sum(self.room(node["Resources"]) for node in _nodes(ray))
        if most >= (wanted or 1):
            return wanted or most
        each = f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")
        raise ConfigError(
            f"{f'workers is {wanted}' if wanted else 'there is a search to do'}, but the Ray cluster has room for "
            f"{most} trainings at a time: it has {_resources(ray)}, and each training takes {each}",
            allowed=[f"workers from 1 to {most}"] if most else [],
            hint="add machines with `ray start --address=HOST:PORT`, or give a smaller "
            + ("--executor.args.gpus_per_trial" if self.gpus else "--executor.args.cpus_per_trial"),
        )


def _times(whole: float, part: float) -> int:
    return math.floor(whole / part + 1e-6)


def connect(address: str | None, runtime_env: Mapping[str, Any] | None = None) -> Any:
    """The ray module, connected; to the cluster that this process is connected to already, if it is.

    Raises
    ------
    PluginError
        If Ray is not installed.
    ConfigError
        If there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning about a coming default
    try:
        import ray
    except ImportError as error:
        raise PluginError("the executor 'ray' needs Ray", hint="pip install 'se-nas[ray]'") from error
    if ray.is_initialized():
        return ray
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if "://" in address:
        raise ConfigError(
            f"the address of the Ray cluster is {address!r}",
            allowed=["HOST:PORT", "auto"],
            hint="make this machine one of the cluster's: ray start --address=HOST:PORT --num-cpus=0",
        )
    _check_reachable(address)
    own: dict[str, Any] = {"num_cpus": _cores(), "include_dashboard": False} if address == "local" else {}
    try:
        with _tamed():
            ray.init(address, log_to_driver=False, logging_level="error", runtime_env=dict(runtime_env or {}), **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, error) from error
    _ours.add(os.getpid())
    return ray


def _check_reachable(address: str) -> None:
    """ConfigError if nothing listens at HOST:PORT. Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, ValueError, OverflowError) as error:
            raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"cannot use the Ray cluster at {address!r}: {str(error).splitlines()[0]}",
        hint="start it with `ray start --head --port=6379`, and let this machine and others join with "
        "`ray start --address=HOST:6379`",
    )


_ours: set[int] = set()
"""The processes that connected to a cluster by themselves, and so end the connection (this one, or none)."""


def disconnect() -> None:
    """End the connection that `connect` made, with the cluster if that was started for it."""
    if os.getpid() in _ours:
        import ray

        _ours.clear()
        ray.shutdown()


@contextlib.contextmanager
def _tamed() -> Iterator[None]:
    """Ray prints news of dead workers in the middle of everything, and takes SIGTERM for itself; neither here.

    Workers of a cluster that is started here import from where this process does.
    """
    import ray._private.worker as internal

    if hasattr(internal, "print_to_stdstream"):  # no setting turns it off: log_to_driver is for workers' output only
        internal.print_to_stdstream = _say_nothing
    main = threading.current_thread() is threading.main_thread()
    handler, path = signal.getsignal(signal.SIGTERM), os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(folder for folder in sys.path if folder)
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, handler)
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path


def _say_nothing(*_: Any, **__: Any) -> None:
    pass


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _nodes(ray: Any) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _resources(ray: Any) -> str:
    total = {name: sum(node["Resources"].get(name, 0.0) for node in _nodes(ray)) for name in ("CPU", "GPU")}
    return f"{total['CPU']:g} CPU and {total['GPU']:g} GPU on {len(_nodes(ray))} machine(s)"


def _machine(_: Any) -> str:
    """Run by a worker: the machine that it is on."""
    import ray

    node: str = ray.get_runtime_context().get_node_id()
    return node


def _is_lost(ray: Any, error: Exception, machine: str | None) -> bool:
    """Whether the machine is to blame, or the way to it."""
    lost = (ray.exceptions.ActorUnavailableError, ray.exceptions.NodeDiedError, ray.exceptions.ObjectLostError)
    if isinstance(error, lost) or getattr(error, "preempted", False):
        return True
    return machine is not None and machine not in {node["NodeID"] for node in _nodes(ray)}


def _cannot_start(error: Exception) -> RunError:
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).splitlines() if "Error" in line] or str(cause).splitlines()
    return RunError(
        f"no worker could start on the Ray cluster: {lines[-1].strip()[:300] if lines else type(error).__name__}",
        hint="every machine needs the same Python, Ray and se-nas: pip install 'se-nas[ray]'",
    )


def _left(request: Request) -> dict[str, bytes]:
    """What there is of this training already: checkpoints and trained weights, by their names in the run folder."""
    folder = Path(request.folder)
    found = [*(folder / "checkpoints").glob(f"{checksum(request.identity)}.*")]
    found.append(weights_file(folder, request.trial, request.identity.phase))
    return {str(file.relative_to(folder)): file.read_bytes() for file in found if file.is_file()}


def _keep(folder: Path, message: Message) -> None:
    """Write the files that came with a message into the run folder."""
    for name, content in message.files.items():
        if content is None:
            (folder / name).unlink(missing_ok=True)
        else:
            write_atomically(folder / name, content)
