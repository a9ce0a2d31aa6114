"""Optuna storages: opened with the settings that each kind of database needs, one driver at a time.

Several drivers may share a study: on a PostgreSQL or MySQL server, or in an SQLite file of one machine. What they ask,
start and tell, they do in turns, so that none sees a half-made trial, trains what another one trains, or exceeds
the budget.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import filelock
import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy import event, make_url, text
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from se_nas.core.errors import RunError
from se_nas.core.storage_url import PASSWORD, shown, with_password, without_secrets

LOCK_WAIT = 60.0
"""Seconds to wait for another process that writes to an SQLite file."""

_KEY = 0x5E4A5
"""Number of the advisory lock: any that no other program of the database uses."""


def open_storage(url: str, *, read_only: bool = False) -> optuna.storages.RDBStorage:
    """An Optuna storage; RunError if it cannot be opened.

    An SQLite file waits for a lock instead of failing at once, and is written ahead. A server's storage is opened once
    in a process, and connections that broke meanwhile are replaced. With `read_only` nothing is made or written: a
    database that is not one of Optuna's is an error.
    """
    with reading(url):
        parsed = _parsed(url)
        if not _is_sqlite(parsed):
            return _open_server(parsed, read_only)
        if read_only:
            args = {"timeout": LOCK_WAIT, "factory": _ReadOnly}
            return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": args}, skip_table_creation=True)
        storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": LOCK_WAIT}})
        event.listen(storage.engine, "connect", _write_ahead)
        storage.engine.dispose()  # connections made before the listener
    return storage


@functools.cache
def _open_server(url: URL, read_only: bool) -> optuna.storages.RDBStorage:
    text_url = url.render_as_string(hide_password=False)
    if read_only:
        return optuna.storages.RDBStorage(text_url, engine_kwargs={"pool_pre_ping": True}, skip_table_creation=True)
    with turn(text_url):  # two drivers that begin together would both make the tables
        return optuna.storages.RDBStorage(text_url, engine_kwargs={"pool_pre_ping": True})


def _write_ahead(connection: Any, _: object) -> None:
    """Log writes ahead: a killed process loses nothing, and few writes wait for the disk."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


class _ReadOnly(sqlite3.Connection):
    """A connection to an SQLite file that refuses to write to it."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.execute("PRAGMA query_only=ON")


def study_names(storage: str, *, read_only: bool = False) -> list[str]:
    """Names of the studies in a storage, oldest first."""
    with reading(storage):
        return optuna.get_all_study_names(open_storage(storage, read_only=read_only))


def turn(url: str) -> Turn:
    """The turn of a storage: one object in each process, however its URL is written."""
    return _turn(_parsed(url))


class Turn:
    """Held by one driver of a storage at a time; others wait. May be entered again by the thread that holds it.

    A driver that is killed gives it back; one whose machine vanishes does so when the server notices (in a minute).
    """

    def __init__(self, url: URL) -> None:
        self._url = url
        self._thread = threading.RLock()
        self._depth = 0
        self._held = contextlib.ExitStack()

    def __enter__(self) -> None:
        self._thread.acquire()
        try:
            if self._depth == 0:
                named = self._url.set(drivername=self._url.get_backend_name())
                with reading(named.render_as_string(hide_password=False)):
                    self._held.enter_context(_lock(self._url))
            self._depth += 1
        except BaseException:
            self._thread.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._depth -= 1
            if self._depth == 0:
                self._held.close()
        finally:
            self._thread.release()


@contextlib.contextmanager
def _lock(url: URL) -> Iterator[None]:
    if _is_sqlite(url):
        file = _sqlite_file(url)
        with filelock.FileLock(f"{file}.lock") if file else contextlib.nullcontext():
            yield
        return
    with _engine(url).begin() as connection:
        if connection.dialect.name == "postgresql":
            for name, seconds in (("idle", 30), ("interval", 10), ("count", 3)):
                connection.execute(text(f"SET LOCAL tcp_keepalives_{name} = {seconds}"))
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_KEY})"))
            yield
        else:
            connection.execute(text(f"SELECT GET_LOCK('se-nas {_KEY}', -1)"))
            try:
                yield
            finally:
                connection.execute(text(f"SELECT RELEASE_LOCK('se-nas {_KEY}')"))


@functools.cache
def _turn(url: URL) -> Turn:
    return Turn(url)


@functools.cache
def _engine(url: URL) -> Engine:
    return sqlalchemy.create_engine(url, pool_pre_ping=True, pool_size=1)


def _parsed(url: str) -> URL:
    try:
        parsed = with_password(make_url(url))
    except ValueError as error:  # a port that is not a number
        raise ArgumentError(str(error)) from error
    if "\0" in url:
        raise ArgumentError("it holds the character NUL")
    # SQLAlchemy 2.0 would take psycopg2 for it, 2.1 takes psycopg.
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


def sync(storage: optuna.storages.RDBStorage) -> None:
    """Have what was written to an SQLite file outlast a power cut: commits alone may still wait for the disk.

    A server's commits are on its disk. SQLite itself does it: were the file opened here and closed again, the system
    would drop all locks that this process has on it (POSIX), and the next program that looks into the study would take
    itself for the last one and remove the log in which the driver goes on writing.
    """
    if not _is_sqlite(storage.engine.url):
        return
    with storage.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")  # syncs the log first


def file_of(url: str) -> Path | None:
    """The file of an SQLite database; None for one in memory, or on a server."""
    parsed = _parsed(url)
    name = _sqlite_file(parsed) if _is_sqlite(parsed) else ""
    return Path(name) if name and name != ":memory:" else None


def identity_of(url: str) -> tuple[int, int] | None:
    """What tells an SQLite file from another of its name; None if it is not there, or the database is not a file."""
    try:
        status = None if (file := file_of(url)) is None else file.stat()
    except OSError:
        return None
    return None if status is None else (status.st_dev, status.st_ino)


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def sqlite_url(file: Path) -> str:
    """The URL of an SQLite file, whatever characters its path has."""
    if str(file).isprintable() and not set(str(file)) & set("?%{}"):
        return f"sqlite:///{file}"
    # A URI of SQLite, since SQLAlchemy takes ? and % for its own, and Optuna fills in what stands in braces.
    return URL.create("sqlite", database=f"file:{quote(bytes(file))}", query={"uri": "true"}).render_as_string()


def _sqlite_file(url: URL) -> str:
    """The path of an SQLite database; empty if it is in memory."""
    name = url.database or ""
    return os.fsdecode(unquote_to_bytes(name.removeprefix("file:"))) if "uri" in url.query else name


def may_exist(url: str) -> bool:
    """Whether there can be studies: False for an SQLite file that is not there."""
    with reading(url):
        parsed = _parsed(url)
    return not _is_sqlite(parsed) or Path(_sqlite_file(parsed)).is_file()


@contextlib.contextmanager
def reading(url: str) -> Iterator[None]:
    """Errors of the database as RunError, without the password."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, json.JSONDecodeError, ImportError, RuntimeError) as error:
        said = without_secrets(_first_line(error), url)
        hint = next((hint for word, hint in _HINTS.items() if word in said), None)
        if isinstance(error, ImportError):
            own = "psycopg" in str(error)
            hint = "pip install 'se-nas[postgresql]'" if own else "install the driver of this database for Python"
        raise RunError(f"cannot use the study storage {shown(url)!r}: {said}", hint=hint) from error


_HINTS = {
    "database is locked": "another program holds the file: close it and repeat the command",
    "password": f"give --storage with the password, or set the variable {PASSWORD}",
    "malformed": "the file is damaged: bring back a copy, or save its rows with sqlite3's command .recover",
}
"""What to try, by a word of the database's own message."""


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, StorageInternalError) else None
    return (str(cause or error).splitlines() or [type(error).__name__])[0]
