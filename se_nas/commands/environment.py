"""What se-nas runs with on this machine: versions, devices, extras, runtimes. What a report of a bug needs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from packaging.requirements import Requirement

import se_nas.core.version
from se_nas.core.version import __version__
from se_nas.data.accelerators import CPU, accelerators
from se_nas.runtimes.table import ENTRIES, Entry
from se_nas.training.provenance import commit_of, device_name

NAME = "se-nas"
DEVELOPMENT = ("dev", "test", "docs", "libraries")
"""Extras that users of se-nas do not need."""

FIRST = ("torch", "pytorch-lightning", "optuna")
"""Libraries that are named first."""


@dataclass(frozen=True, kw_only=True)
class Extra:
    """Packages that one kind of work needs: their versions here, ``None`` for one that is not installed."""

    packages: dict[str, str | None]
    installed: bool
    """Whether all are there, in versions that se-nas works with."""
    install: str
    """The command that brings them."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Versions, devices, extras and runtimes of this process."""

    version: str
    commit: str
    """Of the checkout that se-nas runs from, with ``+`` if it has changes; empty for an installed wheel."""
    folder: str
    python: str
    platform: str
    cores: int
    threads: int
    """That torch uses here."""
    libraries: dict[str, str | None]
    cuda: str | None
    """Version of CUDA (or ROCm) that torch was built for."""
    devices: tuple[str, ...]
    runtimes: dict[str, str]
    """Runtime that latency can be measured in -> empty, or what it lacks."""
    extras: dict[str, Extra]

    @property
    def lines(self) -> list[str]:
        """All of it as text for a terminal or a bug report."""
        at = f" (commit {self.commit})" if self.commit else ""
        rows = [
            (NAME, f"{self.version}{at} in {self.folder}"),
            ("Python", f"{self.python}, {self.platform}"),
            ("devices", "; ".join(self.devices) + f"; {self.cores} cores, torch uses {self.threads}"),
            *((name, self._library(name)) for name in FIRST),
            ("libraries", _listed({n: v for n, v in self.libraries.items() if n not in FIRST})),
            ("runtimes", ", ".join(f"{n} ({lacks})" if lacks else n for n, lacks in self.runtimes.items())),
        ]
        if not self.extras:
            rows.append(("extras", "not known: se-nas is not installed, it runs from its folder"))
        rows += [(f"[{name}]", _listed(extra.packages)) for name, extra in self.extras.items() if extra.installed]
        rows += [
            (f"[{name}]", f"{_listed(extra.packages)}: {extra.install}")
            for name, extra in self.extras.items()
            if not extra.installed
        ]
        return [f"{name:<18} {text}" for name, text in rows]

    def _library(self, name: str) -> str:
        built = f" (built for {self.cuda})" if name == "torch" and self.cuda else ""
        return (self.libraries.get(name) or "not installed") + built


def environment() -> Environment:
    """What se-nas runs with here; nothing is imported but what every search imports."""
    here = Path(se_nas.core.version.__file__).resolve().parents[1]
    needed = list(_requirements())
    libraries = {r.name: _version(r.name) for r, extra in needed if not extra} or dict.fromkeys(FIRST)
    return Environment(
        version=__version__,
        commit=commit_of(here),
        folder=str(here),
        python=platform.python_version(),
        platform=platform.platform(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        libraries={name: version or _version(name) for name, version in libraries.items()},
        cuda=_built_for(),
        devices=tuple(map(device_name, (CPU, *accelerators()))),
        runtimes={name: _lacks(entry) for name, entry in ENTRIES.items()},
        extras={name: _extra(name, needed) for name in sorted({extra for _, extra in needed if extra})},
    )


def _lacks(entry: Entry) -> str:
    """What a runtime lacks here; empty if it can be opened."""
    lacking = [package for package in entry.needs if importlib.util.find_spec(package) is None]
    if lacking:
        return f"lacks {', '.join(lacking)}"
    return "needs a CUDA device" if entry.only == "cuda" and not torch.cuda.is_available() else ""


def _built_for() -> str | None:
    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    return f"ROCm {torch.version.hip}" if torch.version.hip else None


def _requirements() -> Iterator[tuple[Requirement, str]]:
    """What the installed se-nas asks for, and for which extra; empty text for what it always needs."""
    try:
        given = importlib.metadata.requires(NAME) or []
    except importlib.metadata.PackageNotFoundError:
        return
    names = importlib.metadata.metadata(NAME).get_all("Provides-Extra") or []
    for requirement in map(Requirement, given):
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            yield requirement, ""
            continue
        for extra in names:
            if extra not in DEVELOPMENT and marker.evaluate({"extra": extra}):
                yield requirement, extra


def _extra(name: str, needed: list[tuple[Requirement, str]]) -> Extra:
    wanted = [requirement for requirement, extra in needed if extra == name]
    versions = {requirement.name: _version(requirement.name) for requirement in wanted}
    there = all(
        version is not None and requirement.specifier.contains(version, prereleases=True)
        for requirement, version in zip(wanted, versions.values(), strict=True)
    )
    return Extra(packages=versions, installed=there, install=f"pip install '{NAME}[{name}]'")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _listed(versions: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {version or 'not installed'}" for name, version in versions.items())
