"""Passwords of storages: taken where they are given, and in nothing that is kept or shown."""

from __future__ import annotations

import pytest
from sqlalchemy import make_url

from se_nas.core.errors import RunError
from se_nas.core.storage_url import (
    PASSWORD,
    dashboard_command,
    offer,
    offered,
    shown,
    with_password,
    without_password,
    without_secrets,
    words_shown,
)
from se_nas.engine.storage import open_storage


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("postgresql://me:geheim@h:5432/d", "postgresql://me@h:5432/d"),
        ("postgresql+psycopg://me:geheim@h/d?sslmode=require", "postgresql+psycopg://me@h/d?sslmode=require"),
        ("mysql+pymysql://me:gehe%40im@h/d", "mysql+pymysql://me@h/d"),
        ("postgresql://me@h/d?password=geheim&sslmode=require", "postgresql://me@h/d?sslmode=require"),
        ("mysql://h/d?passwd=geheim", "mysql://h/d"),
        ("postgresql://me:geh@geheim@h/d", "postgresql://me@h/d"),
        ("postgresql://me:geh/geheim@h/d", "postgresql://me@h/d"),
        ("postgresql//me:geheim@h/d", "postgresql//me@h/d"),
        ("postgresql://me:geheim@h:port/d", "postgresql://me@h:port/d"),
        ("postgresql://me@h/d", "postgresql://me@h/d"),
        ("sqlite:////x/a b:c@d.db", "sqlite:////x/a b:c@d.db"),
        ("nonsense", "nonsense"),
    ],
)
def test_without_password(url: str, kept: str) -> None:
    assert without_password(url) == kept
    assert without_password(kept) == kept
    assert "geheim" not in shown(url)
    assert "geh" not in shown(url).replace("geheim", "")
    assert words_shown(["--storage", url, f"--storage={url}"])[0] == "--storage"
    assert all("geheim" not in word for word in words_shown([url, f"--storage={url}"]) if "://" in url)


def test_shown_says_that_there_is_one() -> None:
    assert shown("postgresql://me:geheim@h/d") == "postgresql://me:***@h/d"


def test_the_password_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, "from outside")
    assert with_password(make_url("postgresql://me@h/d")).password == "from outside"
    assert with_password(make_url("postgresql://me:mine@h/d")).password == "mine"
    assert with_password(make_url("postgresql://h/d")).password is None
    assert with_password(make_url("sqlite:///x.db")).password is None


@pytest.mark.parametrize(
    "url",
    ["postgresql://tester:geheim@127.0.0.1:9/none", "postgresql://tester:geheim@127.0.0.1:port/none",
     "nodatabase://tester:geheim@h/d", "//tester:geheim@h/d", "postgresql://t@127.0.0.1:9/n?password=geheim"],
)  # fmt: skip
def test_errors_are_without_it(url: str) -> None:
    with pytest.raises(RunError) as raised:
        open_storage(url)
    assert "geheim" not in str(raised.value)
    assert without_secrets("it was geheim", "postgresql://a:geheim@h/d") == "it was ***"


def test_what_was_given_in_this_process_is_found_again() -> None:
    offer("postgresql://me:geheim@host-of-this-test/d")
    assert offered("postgresql://me@host-of-this-test/d") == "postgresql://me:geheim@host-of-this-test/d"
    assert offered("postgresql://you@host-of-this-test/d") is None


class TestDashboard:
    @pytest.mark.parametrize(
        ("url", "command"),
        [
            ("postgresql://me:se%20cret@host:5432/studies", "optuna-dashboard postgresql://me@host:5432/studies"),
            ("postgresql://host/studies?password=x&sslmode=require",
             "optuna-dashboard 'postgresql://host/studies?sslmode=require'"),
            ("sqlite:////a run/it's/study.db", "optuna-dashboard 'sqlite:////a run/it'\"'\"'s/study.db'"),
        ],
    )  # fmt: skip
    def test_is_quoted_and_has_no_password(self, url: str, command: str) -> None:
        assert dashboard_command(url) == command
