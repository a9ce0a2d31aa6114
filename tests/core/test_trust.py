"""Names that were read from a folder: which of them may be followed, and what keeps their code apart."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from se_nas.core import trust
from se_nas.core.errors import PluginError
from se_nas.core.plugins import keep_live
from se_nas.core.trial import Target
from se_nas.core.trust import Named, check_trust, is_trusted, remember
from se_nas.engine.trusted import TABLES


def named(kind: str, name: str, **args: Any) -> Named:
    return Named(kind=kind, target=Target(target=name, args=args), builtins=TABLES.get(kind, {}))


@pytest.fixture
def another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process was told is forgotten, as in the next one."""
    monkeypatch.setattr(trust, "_KNOWN", set())


class TestRunsCode:
    @pytest.mark.parametrize(
        "harmless",
        [
            named("backbone", "resnet8"), named("backbone", "timm:resnet18", drop_rate=0.1, act_layer="silu"),
            named("backbone", "hf:microsoft/resnet-50"), named("data", "digits", split_seed=3),
            named("data", "npz:/data/x.npz"), named("data", "folder:/data/x"), named("task", "classification"),
            named("trainer", "lightning"), named("sampler", "known-cost"), named("executor", "ray", gpus_per_trial=0.5),
            named("backbone", "timm:resnet18", out_indices=[1, 2]),
            named("backbone", "hf:a/b", trust_remote_code=False),
        ],
        ids=repr,
    )  # fmt: skip
    def test_not_built_in_names_with_plain_arguments(self, harmless: Named) -> None:
        assert not harmless.runs_code

    @pytest.mark.parametrize(
        "name",
        [
            named("backbone", "os:system"), named("backbone", "/x/net.py:Net"), named("data", "os:system"),
            named("task", "subprocess:run"), named("sampler", "a.b:C"), named("cost", "a:B"),
            named("optimizer", "a:B"), named("trainer", "/x/loop.py:train"), named("unheard-of", "resnet8"),
            named("backbone", "hf:a/b", trust_remote_code=True), named("data", "hf:a/b", trust_remote_code=1),
            named("backbone", "timm:resnet18", checkpoint_path="/x/evil.pth"),
            named("backbone", "timm:resnet18", pretrained_cfg={"file": "evil"}),
            named("backbone", "timm:hf-hub:somebody/evil"), named("backbone", "timm:../evil"),
            named("backbone", "hf:./evil"), named("backbone", "ultralytics:/x/evil.yaml"),
            named("data", "torchvision:CIFAR10", root="/x"), named("executor", "ray:10.0.0.1:10001"),
            named("executor", "ray", address="10.0.0.1:10001"), named("executor", "ray", runtime_env={"pip": ["evil"]}),
        ],
        ids=repr,
    )  # fmt: skip
    def test_all_else(self, name: Named) -> None:
        assert name.runs_code
        assert not is_trusted(name)

    def test_a_file_that_is_there_is_no_name_of_a_library(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        mine = (
            named("backbone", "ultralytics:yolo11n-cls.yaml"),
            named("backbone", "timm:resnet18", checkpoint_path="w"),
        )
        assert [name.runs_code for name in mine] == [False, False]
        for file in ("yolo11n-cls.yaml", "w"):
            Path(file).touch()
        assert [name.runs_code for name in mine] == [True, True]

    def test_an_installed_plug_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(trust, "entry_points", lambda kind: {"theirs": None} if kind == "backbone" else {})
        assert not named("backbone", "theirs").runs_code
        assert named("task", "theirs").runs_code

    def test_an_object_of_this_process(self) -> None:
        assert not named("backbone", keep_live("net", object)).runs_code


class TestRemember:
    def test_exactly_what_was_given_in_this_process_and_the_next(self, another_process: None, state: Path) -> None:
        given = named("backbone", "/x/net.py:Net", width=8)
        assert not is_trusted(given)
        remember([given, named("backbone", "resnet8")])
        assert is_trusted(given)
        trust._KNOWN.clear()
        assert is_trusted(given)
        assert b"/x/net.py:Net" in (state / "se-nas" / "given" / given.entry).read_bytes()
        for other in (
            named("backbone", "/x/net.py:Net", width=9), named("backbone", "/y/net.py:Net", width=8),
            named("backbone", "/x/net.py:Other", width=8), named("data", "/x/net.py:Net", width=8),
        ):  # fmt: skip
            assert not is_trusted(other)

    def test_a_module_of_another_folder_is_another_one(
        self, another_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for folder in ("mine", "theirs"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "networks_of_somebody.py").write_text("")
        net = named("backbone", "networks_of_somebody:net")
        monkeypatch.setattr(sys, "path", [str(tmp_path / "mine"), *sys.path])
        remember([net])
        assert is_trusted(net)
        monkeypatch.setattr(sys, "path", [str(tmp_path / "theirs"), *sys.path])
        assert not is_trusted(net)

    def test_a_home_that_cannot_be_written(
        self, another_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
        net = named("backbone", "/x/net.py:Net2")
        remember([net])
        assert is_trusted(net)
        trust._KNOWN.clear()
        assert not is_trusted(net)


class TestCheck:
    def test_the_error_shows_every_name(self) -> None:
        names = [named("backbone", "os:system"), named("data", "digits"), named("task", "a:\x1b[31m", n=1)]
        with pytest.raises(PluginError) as raised:
            check_trust(names, where=Path("/somewhere"), trust=False)
        text = str(raised.value)
        assert "backbone 'os:system', task 'a:\\x1b[31m' with {'n': 1}" in text
        assert "in /somewhere" in text
        assert "--trust (in Python trust=True)" in text
        check_trust(names, where=Path("/somewhere"), trust=True)

    @pytest.mark.parametrize(
        "name", ["~nobody-here/x.py:net", "a\0.py:net", "a\0:net", ":net", "..:x", "a:", "x" * 5000]
    )
    def test_nonsense_is_no_more_than_not_trusted(self, name: str) -> None:
        with pytest.raises(PluginError, match="not run"):
            check_trust([named("backbone", name)], where=Path(), trust=False)
        assert not named("backbone", f"timm:{'x' * 5000}", word="y" * 5000).runs_code

    def test_a_name_as_long_as_a_book(self) -> None:
        with pytest.raises(PluginError) as raised:
            check_trust([named("backbone", f"os:{'x' * 100_000}")], where=Path(), trust=False)
        assert len(str(raised.value)) < 1000
