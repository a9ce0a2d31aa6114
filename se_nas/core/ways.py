"""How a network of a run is named: ``--select``."""

from __future__ import annotations

from se_nas.core.errors import RunError, did_you_mean
from se_nas.core.words import REFERENCES

WAYS = ("recommended", "observed-best", "knee", *REFERENCES, "trial=N", "max-params=X", "max-COST=X")


def check_way(how: str) -> None:
    """RunError with the nearest of `WAYS` for what names no network."""
    name, equals, _ = how.partition("=")
    valued = equals and (name == "trial" or name.startswith("max-"))
    if not valued and how not in (*WAYS, "best"):
        raise RunError(f"select is {how!r}", allowed=WAYS, hint=did_you_mean(how, WAYS))
