"""Trained weights that a library fetches: from its cache, or from the net, or one clear error within seconds."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

from se_nas.core.errors import BackboneError, SeNasError

PATIENCE = 5.0
"""Seconds in which a server must answer."""

OFFLINE_PATIENCE = 1.0
"""Seconds that a library may wait for a server which did not answer before; some try five times."""

_SWITCHES = (
    ("huggingface_hub.constants", "HF_HUB_OFFLINE"),
    ("transformers.utils.hub", "_is_offline_mode"),
)
"""Where libraries keep that they must not ask the hub; then they look into their caches alone, without retries."""


def hub() -> str:
    """Address of the hub of Hugging Face, or of the mirror that the user has set."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


@contextlib.contextmanager
def fetching(what: str, server: str) -> Iterator[None]:
    """For the time in which a library gets something that may lie on a server.

    Parameters
    ----------
    what:
        What it gets, as the error names it.
    server:
        Its address, such as ``https://huggingface.co``.

    Raises
    ------
    BackboneError
        If it is not in the library's cache, and the server does not answer or does not have it.
    """
    online = not _told_to_stay_offline(server) and answers(server)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE if online else OFFLINE_PATIENCE)
    try:
        with contextlib.nullcontext() if online else _offline():
            yield
    except SeNasError:
        raise
    except Exception as error:  # each library and each of its ways to the net has errors of its own
        if online and not _is_of_the_net(error):
            raise
        reason = (
            (str(error).splitlines() or [""])[0] if online else f"it is not in the cache, and {server} is not reached"
        )
        raise BackboneError(
            f"{what} cannot be fetched: {reason}", hint="go online once, or give a file of yours: --weights FILE"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


@functools.lru_cache
def answers(server: str) -> bool:
    """Whether a server says anything within a few seconds, be it that there is nothing at its root."""
    said: list[bool] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(server, method="HEAD")  # noqa: S310  # https, or the user's own
            with urllib.request.urlopen(request, timeout=PATIENCE):  # noqa: S310
                said.append(True)
        except urllib.error.HTTPError:
            said.append(True)
        except (OSError, ValueError):
            return

    asking = threading.Thread(target=ask, daemon=True)  # a name server may take its time, whatever the timeout
    asking.start()
    asking.join(PATIENCE)
    return bool(said)


def _told_to_stay_offline(server: str) -> bool:
    return server == hub() and os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    before = []
    for module, name in _SWITCHES:
        library = sys.modules.get(module)
        if hasattr(library, name):
            before.append((library, name, getattr(library, name)))
            setattr(library, name, True)
    try:
        yield
    finally:
        for library, name, value in before:
            setattr(library, name, value)


def _is_of_the_net(error: BaseException | None) -> bool:
    """Whether an error, or one that it comes from, is of a connection or of what a server says."""
    while error is not None:
        module = type(error).__module__.partition(".")[0]
        if isinstance(error, OSError) or module in ("requests", "httpx", "httpcore", "urllib3", "huggingface_hub"):
            return True
        error = error.__cause__ or error.__context__
    return False
