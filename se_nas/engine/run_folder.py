"""The run folder: one search's files, and the lock of the driver that works in it.

::

    config.yaml   the resolved configuration
    study.db      the Optuna study: the one truth
    report.html   trials.csv    curves.csv   front.csv    front.png    front.svg     views made from it
    best/         the best network: placement.json, model.safetensors
    data/         decoded images, shared by the workers
    results/      what workers left for the driver
    weights/      trained weights
    trainings/    what the user's own training loop left
    checkpoints/  states of long trainings that run
    driver.lock   folder.id    who works here
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import yaml
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from se_nas.core.config import LIGHTNING, SearchConfig
from se_nas.core.documents import UnreadableError, from_yaml, text_of
from se_nas.core.errors import RunError
from se_nas.core.files import clear_parts, is_ours, path_text, user_path, write_atomically
from se_nas.core.serialization import to_plain
from se_nas.core.storage_url import offered, shown, without_password
from se_nas.core.trial import Target
from se_nas.engine.storage import sqlite_url

STUDY = "search"
FINAL = "train"
"""Names of the study of a search, and of that of one long training."""

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
"""Errors of a disk that takes nothing more or is broken, whoever writes."""

LOCK_WAIT = 0.5
"""Seconds to wait for the lock: `busy` holds it for a moment."""


class RunFolder:
    """Paths of a run. `lock` makes this process its driver until `unlock` or the end of the process."""

    def __init__(self, path: Path) -> None:
        self.path = user_path(path).absolute()
        self._name = f"{socket.gethostname()}:{path_text(self.path)}:"
        self.owner = f"{self._name}{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._lock: filelock.BaseFileLock | None = None

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def storage(self) -> str:
        """The URL of the study in this folder."""
        return sqlite_url(self.path / "study.db")

    def lock(self) -> None:
        """Make the folder if need be and become its driver.

        RunError if the folder cannot be written, or another driver works in it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = filelock.FileLock(self.path / "driver.lock")
            self._lock.acquire(timeout=LOCK_WAIT)
            self._name = f"{socket.gethostname()}:{path_text(self.path)}:{self._token()}:"
            self.owner = f"{self._name}{os.getpid()}:{uuid.uuid4().hex[:8]}"
        except filelock.Timeout as error:
            raise RunError(
                f"another search is running in {str(self.path)!r}", hint="wait for it, or give another --out"
            ) from error
        except OSError as error:
            raise RunError(f"cannot write to the run folder {str(self.path)!r}: {error.strerror or error}") from error
        clear_parts(self.path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """This process is the driver of the folder until the end of the context; see `lock`."""
        self.lock()
        try:
            yield
        finally:
            self.unlock()

    def unlock(self) -> None:
        """Let another driver work here."""
        if self._lock is not None:
            self._lock.release()

    @property
    def busy(self) -> bool:
        """Whether a driver works here, as far as the file system tells: this process or another one."""
        file = self.path / "driver.lock"
        if not file.is_file():
            return False
        lock = filelock.FileLock(file)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return True
        except OSError:  # a run folder that may only be read
            return False
        lock.release()
        return False

    def owned_by_us(self, owner: str) -> bool:
        """Whether an owner is a driver of this folder: it is dead then, since we hold the lock."""
        return owner.startswith(self._name)

    def _token(self) -> str:
        """A word of this folder alone: machines may have equal names and paths."""
        file = self.path / "folder.id"
        if not file.is_file():
            write_atomically(file, uuid.uuid4().hex[:8].encode())
        return file.read_text()

    def write_config(self, config: SearchConfig) -> None:
        """Keep the resolved configuration, without passwords."""
        text = yaml.safe_dump(to_plain(kept(config)), sort_keys=False)
        write_atomically(self.config_file, text.encode())

    def named_storage(self) -> str | None:
        """The storage that the folder's configuration names; RunError if that cannot be read."""
        if self.config_file.is_file():
            try:
                raw = from_yaml(text_of(self.config_file))
            except UnreadableError as error:
                raise RunError(str(error), where=str(self.config_file)) from error
            if isinstance(raw, dict) and raw.get("storage"):
                return str(raw["storage"])
        return None

    def find_storage(self, given: str | None = None) -> str:
        """The storage of the run that was made here.

        A folder that names a storage elsewhere is not followed there: somebody else may have written it.

        RunError if this is not a run folder, or its study is in a storage that the user has not given in this process.
        """
        if (named := self.named_storage()) is not None:
            if (url := given or offered(named)) is not None:
                return url
            raise RunError(
                f"the study of this run is in the storage {shown(named)!r}, which is opened only if you give it now",
                where=str(self.path),
                hint=f"--storage {without_password(named)} (in Python storage=...), if you know that it is yours",
            )
        if given is not None:
            raise RunError(
                f"the study of {str(self.path)!r} is in the folder itself, not in {shown(given)!r}",
                hint="leave --storage out",
            )
        if not (self.path / "study.db").is_file():
            what = f"{str(self.path)!r} is not a run folder: it has no study.db"
            raise RunError(what, hint="run se-nas search first")
        return self.storage


def kept(config: SearchConfig) -> SearchConfig:
    """The configuration as it may be written: the URL of its storage without the password."""
    return config if config.storage is None else replace(config, storage=without_password(config.storage))


@contextlib.contextmanager
def clear_errors(folder: Path) -> Iterator[None]:
    """Errors of the disk and of the study file, while a folder is written to, in words that help."""
    try:
        yield
    except OSError as error:
        if not (is_ours(error, folder) or error.errno in FULL):
            raise RunError(
                f"{type(error).__name__}: {error}",
                where=error.filename2 or error.filename,
                hint="the run folder is intact; repeat the command to continue: nothing that was finished is lost",
            ) from error
        there = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
        free = shutil.disk_usage(there).free
        raise RunError(
            f"cannot write to {str(folder)!r}: {error.strerror or error} ({free / 2**20:.0f} MiB free)",
            where=error.filename2 or error.filename,
            hint="free some space, or fix what is in the way, and repeat the command: "
            "nothing that was finished is lost",
        ) from error
    except (SQLAlchemyError, StorageInternalError) as error:
        raise RunError(
            f"the study cannot be written: {str(error.__cause__ or error).splitlines()[0]}",
            where=str(folder),
            hint="is the disk full, the file read-only or the server unreachable? "
            "Repeat the command to continue where it stopped",
        ) from error


def default_folder(config: SearchConfig) -> Path:
    """``runs/BACKBONE-DATA`` (``-TRAINER`` if it is the user's own), so that the same command finds its run again."""
    own = config.trainer.target != LIGHTNING
    data = [] if own and config.data == SearchConfig().data else [config.data]
    return Path("runs") / "-".join(map(_word, (config.backbone, *data, *([config.trainer] if own else []))))


def _word(target: Target) -> str:
    name = target.target.rstrip("/").rpartition("/")[2].replace(".py:", "-").replace(":", "-").replace(".npz", "")
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Each leaf that differs between two pieces of plain data, as ``path: old -> new``."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for name in {**old, **new}
            for line in differences(old.get(name), new.get(name), f"{path}.{name}" if path else str(name))
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line for i, pair in enumerate(zip(old, new, strict=True)) for line in differences(*pair, f"{path}[{i}]")
        ]
    return [] if old == new else [f"{path}: {old} -> {new}"]
