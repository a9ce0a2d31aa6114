"""The Ray cluster: the connection to it, its machines, and what one training reserves of them."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from se_nas.core.errors import ConfigError, PluginError, RunError
from se_nas.executors.slots import environment
from se_nas.training.devices import cores


@dataclass(frozen=True)
class Reservation:
    """What one evaluation reserves."""

    cpus: float
    gpus: float

    @classmethod
    def of(cls, device: str, cpus: float, gpus: float | None) -> Reservation:
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
        most = sum(self.room(node["Resources"]) for node in nodes(ray))
        if most >= (wanted or 1):
            return wanted or most
        each = f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")
        raise ConfigError(
            f"{f'workers is {wanted}' if wanted else 'there is a search to do'}, but the Ray cluster has room for "
            f"{most} trainings at a time: it has {resources_text(ray)}, and each training takes {each}",
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
    # Ray and its workers read these as long as they run, so they stay; the user's own values win.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning about a coming default
    try:
        import ray
    except ImportError as error:
        raise PluginError("the executor 'ray' needs Ray", hint="pip install 'se-nas[ray]'") from error
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if "://" in address:
        raise ConfigError(
            f"the address of the Ray cluster is {address!r}",
            allowed=["HOST:PORT", "auto"],
            hint="make this machine one of the cluster's: ray start --address=HOST:PORT --num-cpus=0",
        )
    _check_reachable(address)
    if ray.is_initialized():
        return ray
    own: dict[str, Any] = {"num_cpus": cores(), "include_dashboard": False} if address == "local" else {}
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

    # For as long as Ray is connected. No setting turns it off: log_to_driver is for workers' output only.
    if hasattr(internal, "print_to_stdstream"):
        internal.print_to_stdstream = _say_nothing
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with environment({"PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)}):
            yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _say_nothing(*_: Any, **__: Any) -> None:
    pass


def nodes(ray: Any) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def resources_text(ray: Any) -> str:
    total = {name: sum(node["Resources"].get(name, 0.0) for node in nodes(ray)) for name in ("CPU", "GPU")}
    return f"{total['CPU']:g} CPU and {total['GPU']:g} GPU on {len(nodes(ray))} machine(s)"


def is_lost(ray: Any, error: Exception, machine: str | None) -> bool:
    """Whether the machine is to blame, or the way to it."""
    lost = (ray.exceptions.ActorUnavailableError, ray.exceptions.NodeDiedError, ray.exceptions.ObjectLostError)
    if isinstance(error, lost) or getattr(error, "preempted", False):
        return True
    return machine is not None and machine not in {node["NodeID"] for node in nodes(ray)}


def cannot_start(error: Exception) -> RunError:
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).splitlines() if "Error" in line] or str(cause).splitlines()
    return RunError(
        f"no worker could start on the Ray cluster: {lines[-1].strip()[:300] if lines else type(error).__name__}",
        hint="every machine needs the same Python, Ray and se-nas: pip install 'se-nas[ray]'",
    )
