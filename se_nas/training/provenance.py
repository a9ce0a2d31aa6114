"""What a result was made with: versions, commit and hardware."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

from se_nas.core.version import __version__
from se_nas.data.accelerators import CPU, name_of
from se_nas.data.shards import devices_of


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    names = ("torch", "pytorch-lightning", "optuna", "fvcore")
    found = {"python": platform.python_version(), "se-nas": __version__}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def commit() -> str:
    """Git commit of the folder that the command runs in, with ``+`` if it has changes; empty outside a checkout."""
    try:
        return _commit(Path())
    except (OSError, subprocess.SubprocessError):
        return ""


def commit_of(package: Path) -> str:
    """The same of the checkout that a package is part of; empty if it only lies in one, as an installed one may."""
    try:
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        return _commit(package)
    except (OSError, subprocess.SubprocessError):
        return ""


def _commit(folder: Path) -> str:
    head = _git(folder, "rev-parse", "--short=12", "HEAD")
    return head + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *args: str) -> str:
    done = subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


@functools.cache
def device_name(device: str) -> str:
    """Name of the hardware, such as ``cpu (AMD EPYC)`` or ``cuda:0,cuda:1 (NVIDIA H200)``."""
    first = devices_of(device)[0]
    if first != CPU:
        return f"{device} ({name_of(torch.device(first)) or platform.machine()})"
    name = torch.cpu.get_capabilities().get("cpu_name") if hasattr(torch.cpu, "get_capabilities") else None
    return f"{device} ({name or platform.machine()})"
