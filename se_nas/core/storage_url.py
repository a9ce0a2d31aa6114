"""URLs of Optuna storages: their passwords are used, and never written or shown.

A password comes from the URL that is given now or from the variable ``SE_NAS_STORAGE_PASSWORD`` (PostgreSQL's own
``PGPASSWORD`` and ``~/.pgpass`` hold, too). What is kept of a URL has none.
"""

from __future__ import annotations

import os
import re
import shlex

from sqlalchemy import make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

PASSWORD = "SE_NAS_STORAGE_PASSWORD"  # noqa: S105  # the name of the variable
"""Environment variable with the password for a URL that has a user and no password."""

_SECRET = re.compile(r"pass|pwd|secret|token|credential|api_?key", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=//)([^:/@]*):(.*)@", re.DOTALL)
"""User and password in a text that is not a URL, or one whose password has characters that must be escaped."""

_GIVEN: dict[str, str] = {}


def with_password(url: URL) -> URL:
    """The URL as it is opened: with the password of the environment, where it has a user and none."""
    found = os.environ.get(PASSWORD)
    needs = url.username is not None and not url.password and url.get_backend_name() != "sqlite"
    return url.set(password=found) if found and needs else url


def without_password(url: str) -> str:
    """The URL as it may be kept: no password, and no parameter that is named like one."""
    return _rendered(url, hidden=False)


def dashboard_command(url: str) -> str:
    """The command that opens a study in optuna-dashboard, quoted for a shell.

    It has no password, which the database takes from its own variables, such as ``PGPASSWORD``.

    >>> dashboard_command("postgresql://me:secret@host/studies"), dashboard_command("sqlite:///a run/study.db")
    ('optuna-dashboard postgresql://me@host/studies', "optuna-dashboard 'sqlite:///a run/study.db'")
    """
    return shlex.join(["optuna-dashboard", without_password(url)])


def shown(url: str) -> str:
    """The URL as it may be shown: ``***`` in place of a password."""
    return _rendered(url, hidden=True)


def _rendered(text: str, *, hidden: bool) -> str:
    if text.startswith("sqlite://"):
        return text
    mask = r"\1:***@" if hidden else r"\1@"
    try:
        url = make_url(_LOGIN.sub(mask, text))
    except (SQLAlchemyError, ValueError):
        return _LOGIN.sub(mask, text)
    query = {name: value for name, value in url.query.items() if not _SECRET.search(name)}
    if query == dict(url.query):
        return url.render_as_string(hide_password=True)
    query |= {name: "***" for name in url.query if hidden and name not in query}
    return url.set(query=query).render_as_string(hide_password=True)


def without_secrets(text: str, url: str) -> str:
    """A message about a URL, without the password wherever the database put it."""
    try:
        parsed = with_password(make_url(url))
    except (SQLAlchemyError, ValueError):
        login = _LOGIN.search(url)
        secrets = [login[2], *login[2].split("@"), *login[2].split(":")] if login else []
    else:
        secrets = [str(parsed.password or ""), *(str(v) for k, v in parsed.query.items() if _SECRET.search(k))]
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def words_shown(words: list[str]) -> list[str]:
    """Words of a command line, as they may be kept."""
    result = []
    for word in words:
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        result.append(f"{option}{equals}{shown(value)}" if "://" in value else word)
    return result


def offer(url: str) -> None:
    """Have a storage that the user has given opened again in this process, where a folder names it."""
    _GIVEN[without_password(url)] = url


def offered(url: str) -> str | None:
    """The URL that the user gave in this process, for one without its password; None if there is none."""
    return _GIVEN.get(without_password(url))
