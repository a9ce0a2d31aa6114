"""Folders that somebody else may have written: reading them runs nothing and connects nowhere.

Each folder here is a good run in which one name was exchanged. The code that the names lead to leaves a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import tiny

import se_nas
from se_nas import cli
from se_nas.commands.compare import compare
from se_nas.commands.confirm import confirm
from se_nas.commands.export import export
from se_nas.commands.results import report_again
from se_nas.commands.search import search
from se_nas.core import storage_url, trust
from se_nas.core.errors import PluginError, RunError, SeNasError
from se_nas.core.trial import Target
from se_nas.data.base import DataInfo
from se_nas.data.store import prepare_data, read_info

CODE = """
from pathlib import Path

Path({ran!r}).touch()

from se_nas.backbones.resnet import resnet

def net(num_classes, in_channels):
    return resnet(depth=8, num_classes=num_classes, in_channels=in_channels)

class Anything:
    def __init__(self, *args, **settings):
        raise RuntimeError("called")
"""


@pytest.fixture
def foreign(finished: Path, tmp_path: Path) -> Path:
    """A run folder with a Python file beside it, which writes ``ran`` when it is loaded."""
    (tmp_path / "theirs.py").write_text(CODE.format(ran=str(tmp_path / "ran")))
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def next_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process was given is forgotten, as in the next one."""
    monkeypatch.setattr(storage_url, "_GIVEN", {})
    monkeypatch.setattr(trust, "_KNOWN", set())


def theirs(run: Path, name: str) -> dict[str, Any]:
    return {"target": f"{run.parent / 'theirs.py'}:{name}", "args": {}}


def edit_study(run: Path, attribute: str, change: Callable[[Any], None]) -> None:
    """Change an attribute of a study as somebody with a database program would."""
    with contextlib.closing(sqlite3.connect(run / "study.db")) as database, database:
        query = "select study_user_attribute_id, value_json from study_user_attributes where key = ?"
        for number, text in database.execute(query, (attribute,)).fetchall():
            content = json.loads(text)
            change(content)
            database.execute(
                "update study_user_attributes set value_json = ? where study_user_attribute_id = ?",
                (json.dumps(content), number),
            )


def edit_json(file: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def content_of(folder: Path) -> dict[str, str]:
    files = (f for f in folder.rglob("*") if f.is_file() and not f.name.endswith((".lock", "-shm", "-wal")))
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


class TestNamesAreNotFollowed:
    @pytest.mark.parametrize("name", ["os:system", "THEIRS:net"])
    def test_load(self, foreign: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        name = name.replace("THEIRS", str(tmp_path / "theirs.py"))
        edit_json(foreign / "best" / "placement.json", lambda c: c["backbone"].update(target=name))
        with pytest.raises(PluginError, match="backbone '") as raised:
            se_nas.load(foreign / "best")
        assert repr(name) in str(raised.value)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("where", ["run", "best"])
    def test_predict_and_evaluate(self, foreign: Path, tmp_path: Path, where: str) -> None:
        """Of a run and of an export; neither runs the code of the backbone, or of the task."""
        edit_json(foreign / "best" / "placement.json", lambda c: c.update(backbone=theirs(foreign, "net")))
        edit_study(foreign, "config", lambda c: c.update(backbone=theirs(foreign, "net")))
        folder = foreign if where == "run" else foreign / "best"
        image = np.zeros((1, 1, 8, 8), np.uint8)
        with pytest.raises(PluginError, match="backbone '"):
            se_nas.predict(folder, image)
        with pytest.raises(PluginError, match="backbone '"):
            se_nas.evaluate(folder, "digits")
        assert not (tmp_path / "ran").exists()
        assert se_nas.predict(folder, image, trust=True).probabilities.shape == (1, 10)
        assert se_nas.evaluate(folder, "digits", trust=True).images == 1797
        assert (tmp_path / "ran").exists()

    def test_evaluate_runs_no_task(self, foreign: Path, tmp_path: Path) -> None:
        task = theirs(foreign, "Anything")
        edit_json(foreign / "best" / "placement.json", lambda c: c["identity"].update(task=task))
        with pytest.raises(PluginError, match="task '"):
            se_nas.evaluate(foreign / "best", "digits")
        assert not (tmp_path / "ran").exists()

    def test_load_with_trust(self, foreign: Path, tmp_path: Path) -> None:
        edit_json(foreign / "best" / "placement.json", lambda c: c.update(backbone=theirs(foreign, "net")))
        se_nas.load(foreign / "best", trust=True)
        assert (tmp_path / "ran").exists()
        with pytest.raises(PluginError):  # trust is for one call
            se_nas.load(foreign / "best")

    @pytest.mark.parametrize(
        ("kind", "change"),
        [
            *((k, None) for k in ("backbone", "data", "task", "trainer", "executor")),
            ("cost", lambda c, name: c.update(measure=[name])),
            ("optimizer", lambda c, name: c["train"].update(optimizer=name)),
        ],
    )
    def test_confirm(self, foreign: Path, tmp_path: Path, kind: str, change: Callable[[Any, str], None] | None) -> None:
        target = theirs(foreign, "Anything")
        change = change or (lambda c, _: c.update({kind: target}))
        edit_study(foreign, "config", lambda c: change(c, target["target"]))
        with pytest.raises(PluginError) as raised:
            confirm(foreign, seeds=1, top=1)
        assert f"{kind} {target['target']!r}" in str(raised.value)
        assert not (tmp_path / "ran").exists()
        with pytest.raises((SeNasError, RuntimeError)) as trusted:
            confirm(foreign, seeds=1, top=1, trust=True)
        assert "not run" not in str(trusted.value)
        assert (tmp_path / "ran").exists() or kind == "optimizer"  # which only a training makes

    def test_export_of_a_backbone_and_of_data(self, foreign: Path, tmp_path: Path) -> None:
        def module(content: dict[str, Any]) -> None:
            content.update(kind="module", target=theirs(foreign, "Anything"))

        edit_study(foreign, "data", module)
        with pytest.raises(PluginError, match="data '"):
            export(foreign, to=tmp_path / "out")
        edit_study(foreign, "config", lambda c: c.update(backbone=theirs(foreign, "net")))
        with pytest.raises(PluginError, match="backbone '"):
            export(foreign, to=tmp_path / "out")
        with pytest.raises(PluginError, match="backbone '"):
            report_again(foreign).network()
        assert not (tmp_path / "ran").exists()
        assert not (tmp_path / "out").exists()

    def test_report_copies_no_file_that_only_the_folder_names(self, foreign: Path) -> None:
        edit_study(foreign, "config", lambda c: c.update(backbone=theirs(foreign, "net")))
        report_again(foreign)
        assert sorted(f.name for f in (foreign / "best").iterdir()) == ["model.safetensors", "placement.json"]
        assert not (foreign.parent / "ran").exists()

    def test_workers_take_the_data_that_was_asked_for(self, foreign: Path, tmp_path: Path) -> None:
        data = read_info(foreign)
        edit_json(foreign / "data" / "data.json", lambda c: c.update(kind="module", target=theirs(foreign, "Anything")))
        assert read_info(foreign).kind == "module"
        prepare_data(data.target, foreign)
        assert read_info(foreign) == data
        assert isinstance(data, DataInfo)

    def test_train_with_the_settings_of_a_run(
        self, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        placement = foreign / "best" / "placement.json"
        content = yaml.safe_load((foreign / "config.yaml").read_text())
        content["task"] = theirs(foreign, "Anything")
        (foreign / "config.yaml").write_text(yaml.safe_dump(content))
        words = ["train", "--placement", str(placement), "--out", str(tmp_path / "out")]
        assert cli.main(words) == 2
        assert f"task '{tmp_path}/theirs.py:Anything'" in capsys.readouterr().err
        (foreign / "config.yaml").unlink()
        edit_json(placement, lambda c: c.update(backbone=theirs(foreign, "net")))
        assert cli.main(words) == 2
        assert "--trust" in capsys.readouterr().err
        assert not (tmp_path / "ran").exists()
        cli.parse([*words, "--trust"])
        cli.parse([*words, "--backbone", "resnet8"])


class TestOnesOwn:
    def test_a_search_with_a_file_is_confirmed_and_exported_without_a_question(
        self, foreign: Path, tmp_path: Path, next_process: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        mine = Target(target=f"{tmp_path / 'theirs.py'}:net")
        run = search(tiny(tmp_path, backbone=mine, out=str(tmp_path / "mine"), budget=3)).folder
        trust._KNOWN.clear()
        assert cli.main(["confirm", str(run), "--seeds", "1", "--top", "1", "--quiet"]) == 0
        assert cli.main(["export", str(run), "--to", str(tmp_path / "out")]) == 0
        se_nas.load(tmp_path / "out")
        shutil.move(run, tmp_path / "renamed")
        se_nas.load(tmp_path / "renamed" / "best")
        capsys.readouterr()


class TestStorage:
    def elsewhere(self, run: Path) -> Path:
        """Has the folder name a database elsewhere, in both places; returns where that would be."""
        other = run.parent / "elsewhere.db"
        content = yaml.safe_load((run / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump({**content, "storage": f"sqlite:///{other}"}))
        edit_study(run, "config", lambda c: c.update(storage=f"sqlite:///{other}"))
        return other

    def test_no_database_is_opened_that_a_folder_names(
        self, foreign: Path, finished: Path, tmp_path: Path, next_process: None
    ) -> None:
        other = self.elsewhere(foreign)
        for read in (
            lambda: report_again(foreign), lambda: export(foreign), lambda: confirm(foreign),
            lambda: compare([finished, foreign], tmp_path / "compared"),
        ):  # fmt: skip
            with pytest.raises(RunError, match="opened only if you give it now") as raised:
                read()
            assert f"--storage sqlite:///{other}" in str(raised.value)
        assert not other.exists()

    def test_nor_made_when_it_is_given(self, foreign: Path, next_process: None) -> None:
        other = self.elsewhere(foreign)
        sqlite3.connect(other).close()
        with pytest.raises(RunError, match="cannot use the study storage"):
            report_again(foreign, storage=f"sqlite:///{other}")
        assert other.read_bytes() == b""

    def test_given_now(self, foreign: Path, finished: Path, tmp_path: Path, next_process: None) -> None:
        other = self.elsewhere(foreign)
        shutil.move(foreign / "study.db", other)
        url = f"sqlite:///{other}"
        before = other.read_bytes()
        assert cli.main(["report", str(foreign), "--storage", url, "--json"]) == 0
        compare([finished, foreign], tmp_path / "compared", storage=url)
        export(foreign, storage=url, to=tmp_path / "out")
        assert other.read_bytes() == before
        assert yaml.safe_load((foreign / "config.yaml").read_text())["storage"] == url

    def test_a_study_in_the_folder_is_not_exchanged_for_another(self, foreign: Path, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="is in the folder itself"):
            report_again(foreign, storage=f"sqlite:///{tmp_path / 'x.db'}")

    def test_the_study_alone_cannot_lead_elsewhere(self, foreign: Path, tmp_path: Path) -> None:
        other = tmp_path / "elsewhere.db"
        edit_study(foreign, "config", lambda c: c.update(storage=f"sqlite:///{other}"))
        confirm(foreign, seeds=1, top=1)
        assert not other.exists()

    def test_reading_changes_no_record(self, foreign: Path, finished: Path, tmp_path: Path) -> None:
        before = content_of(foreign)
        report_again(foreign)
        export(foreign, to=tmp_path / "out")
        compare([finished, foreign], tmp_path / "compared")
        after = content_of(foreign)
        changed = {name for name in before | after if before.get(name) != after.get(name)}
        views = {".html", ".csv", ".png", ".svg"}
        assert [n for n in changed if not n.startswith("best/") and Path(n).suffix not in views] == []


class TestPasswords:
    def test_none_is_left_of_an_earlier_version(self, foreign: Path, tmp_path: Path) -> None:
        secret = "postgresql://me:geheim@host/d"
        edit_study(foreign, "config", lambda c: c.update(storage=secret))
        report_again(foreign)
        texts = {name: (foreign / name).read_text() for name in ("config.yaml", "report.html")}
        assert [name for name, text in texts.items() if "geheim" in text] == []
        assert "postgresql://me@host/d" in texts["report.html"]
        assert yaml.safe_load(texts["config.yaml"])["storage"] is None  # it is in the folder
