"""A whole search: its results, its end, and how it goes on after every kind of interruption."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from helpers import (
    alive,
    complete_trials,
    descendants,
    environment,
    in_time,
    tiny,
    until,
    write_npz,
    write_space,
)

from se_nas.commands.search import search
from se_nas.core.config import Limits, SearchConfig
from se_nas.core.errors import BackboneError, RunError, SeNasError
from se_nas.core.serialization import to_plain
from se_nas.core.trial import Recipe, Target
from se_nas.engine.run_folder import RunFolder, differences
from se_nas.engine.study import Study

SLOW_TASK = '''
import time
from pathlib import Path

from se_nas.training.classification import Classification, ClassificationModule


class Slow(Classification):
    """Takes its time, and writes down every training that ends."""

    def module(self, candidate, recipe, **facts):
        return SlowModule(candidate, recipe, steps=facts["steps"], class_counts=facts["class_counts"])


class SlowModule(ClassificationModule):
    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        time.sleep(0.4)

    def on_fit_end(self):
        if self.trainer.fast_dev_run:  # the rehearsal before a search
            return
        blocks = [f"{name}:{m.fc1.out_features}" for name, m in self.candidate.named_modules() if hasattr(m, "fc1")]
        with Path(__file__).with_name("trained.txt").open("a") as log:
            log.write(" ".join(["net", *blocks]) + "\\n")
'''


def counted(run: Path) -> pd.DataFrame:
    table = pd.read_csv(run / "trials.csv")
    return table[table["counts"]]


def no_key_twice(table: pd.DataFrame) -> None:
    repeated = [key for key, times in Counter(table["key"]).items() if times > 1]
    assert repeated == []


class TestWhole:
    def test_exhausts_a_space_smaller_than_the_budget(self, finished: Path) -> None:
        table = counted(finished)
        assert len(table) == 8
        no_key_twice(table)
        result = search(replace(SearchConfig(), **_config_of(finished)))
        assert result.ended == "the space is exhausted: all 8 placements that it allows are trained"
        assert result.trials["counts"].sum() == 8

    def test_first_two_trials_are_the_references(self, finished: Path) -> None:
        table = counted(finished)
        assert list(table["role"][:2]) == ["baseline", "reference"]
        assert list(table["placement"][:2]) == ["none", "all:16"]

    def test_run_folder(self, finished: Path) -> None:
        names = {path.name for path in finished.iterdir()}
        assert {
            "config.yaml", "study.db", "trials.csv", "front.csv", "front.png", "front.svg", "best", "data"
        } <= names  # fmt: skip
        assert {path.name for path in (finished / "best").iterdir()} == {"placement.json", "model.safetensors"}
        kept = {int(path.stem) for path in (finished / "weights").iterdir()}
        trials = pd.read_csv(finished / "trials.csv")
        points = trials.loc[trials["role"].notna(), "trial"]
        assert kept == {*pd.read_csv(finished / "front.csv")["trial"], *points}
        assert list((finished / "results").iterdir()) == []

    def test_config_is_resolved(self, finished: Path) -> None:
        content = yaml.safe_load((finished / "config.yaml").read_text())
        assert content["backbone"] == {"target": "resnet8", "args": {}}
        assert content["train"]["precision"] == "32"

    def test_time_ends_a_search(self, tmp_path: Path) -> None:
        result = search(tiny(tmp_path, budget=8, max_time="0.01s"))
        assert result.ended == "the time of 0.01s is over"
        assert result.trials["counts"].sum() < 8

    def test_limits_hold_before_training(self, tmp_path: Path) -> None:
        # resnet8 has 77,754 parameters; r=16 adds 32, 128 and 512.
        result = search(tiny(tmp_path, budget=8, max=Limits(params=77_754 + 160)))
        assert result.ended.startswith("the space is exhausted")
        trained = result.trials[result.trials["counts"]]
        others = trained[trained["role"] == ""]
        assert list(others["params"]) != []
        assert (others["params"] <= 77_754 + 160).all()
        assert set(trained["role"]) == {"baseline", "reference", ""}
        assert len(trained) == 1 + 1 + 3
        rejected = result.trials[result.trials["state"] == "rejected"]
        assert not rejected["counts"].any()

    def test_backbone_from_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.py"
        file.write_text(
            "from torch import nn\n"
            "class Net(nn.Sequential):\n"
            "    def se_units(self):\n"
            "        return {'first': '0', 'second': '2'}\n"
            "def net(num_classes, in_channels, width=16):\n"
            "    return Net(nn.Conv2d(in_channels, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU(),\n"
            "               nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))\n"
        )
        result = search(tiny(tmp_path, backbone=Target(target=f"{file}:net", args={"width": 32}), budget=9))
        assert result.ended == "the space is exhausted: all 4 placements that it allows are trained"

    def test_all_data_kinds_search(self, tmp_path: Path) -> None:
        data = write_npz(tmp_path / "data.npz")
        result = search(tiny(tmp_path, data=Target(target=f"npz:{data}"), budget=2))
        assert (result.trials["state"] == "complete").all()
        assert len(result.trials) == 2

    @pytest.mark.parametrize("sampler", ["tpe", "exhaustive"])
    def test_every_sampler(self, tmp_path: Path, sampler: str) -> None:
        data = write_npz(tmp_path / "data.npz")
        result = search(tiny(tmp_path, data=Target(target=f"npz:{data}"), sampler=Target(target=sampler), budget=5))
        table = result.trials[result.trials["counts"]]
        assert len(table) == 5
        no_key_twice(table)


def _config_of(run: Path) -> dict[str, object]:
    from se_nas.core.serialization import from_plain

    config = from_plain(yaml.safe_load((run / "config.yaml").read_text()), SearchConfig)
    return {name: getattr(config, name) for name in SearchConfig.__dataclass_fields__}


class TestRefusals:
    @pytest.fixture
    def run(self, finished: Path, tmp_path: Path) -> Path:
        shutil.copytree(finished.parent, tmp_path / "copy")
        return tmp_path / "copy" / "run"

    @pytest.mark.parametrize(
        ("change", "line"),
        [
            ({"seed": 1}, "seed: 0 -> 1"),
            ({"backbone": Target(target="resnet14")}, "backbone.target: resnet8 -> resnet14"),
            ({"train": Recipe(epochs=2, batch_size=256)}, "train.epochs: 1 -> 2"),
            ({"cost": "params"}, "objective.cost: gflops -> params"),
            ({"data": Target(target="digits", args={"split_seed": 1})}, "data.split:"),
        ],
    )
    def test_other_problem_is_refused_with_the_difference(
        self, run: Path, change: dict[str, object], line: str
    ) -> None:
        config = replace(tiny(run.parent, space=str(run.parent / "space.yaml")), **change)
        with pytest.raises(RunError) as caught:
            search(config)
        text = str(caught.value)
        assert text.startswith("the run cannot be continued with other settings:")
        assert line in text
        assert str(run) in text
        assert "give another --out" in text

    def test_space_without_a_reduction_is_refused(self, run: Path) -> None:
        space = write_space(run.parent, "reductions: [none, 8]\n", "other.yaml")
        with pytest.raises(RunError, match=r"space\.spec\.reductions"):
            search(tiny(run.parent, space=space))

    def test_second_driver_is_refused(self, run: Path) -> None:
        first = RunFolder(run)
        first.lock()
        try:
            with pytest.raises(RunError, match="another search is running in") as caught:
                in_time(lambda: search(tiny(run.parent)), 60, "the refusal")
            assert "another --out" in str(caught.value)
        finally:
            first.unlock()
        search(tiny(run.parent))

    def test_read_only_folder(self) -> None:
        folder = Path(tempfile.mkdtemp())
        folder.chmod(0o555)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)  # root may write everywhere
            with pytest.raises(RunError) as caught:
                RunFolder(folder).lock()
        finally:
            os.seteuid(user)
            shutil.rmtree(folder)
        assert str(caught.value) == f"cannot write to the run folder '{folder}': Permission denied"

    def test_out_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(RunError, match="cannot write to the run folder"):
            search(tiny(tmp_path, out=str(tmp_path / "file" / "run")))

    @pytest.mark.parametrize("kilobytes", [20, 120])
    def test_full_disk_is_told_and_mended(self, tmp_path: Path, kilobytes: int) -> None:
        """20 kB hold no images; 120 kB hold them, and no study."""
        config = tiny(tmp_path, budget=2)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, hard))
        try:
            with pytest.raises(RunError, match=r"cannot (write to|use the study|be written)|cannot be written"):
                search(config)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert len(search(config).front) >= 1

    def test_backbone_that_raises(self, tmp_path: Path) -> None:
        file = tmp_path / "bad.py"
        file.write_text("def net():\n    raise ValueError('no weights today')\n")
        with pytest.raises(BackboneError, match="cannot be built: ValueError: no weights today"):
            search(tiny(tmp_path, backbone=Target(target=f"{file}:net")))

    def test_search_in_which_everything_fails_ends(self, tmp_path: Path) -> None:
        with pytest.raises(RunError) as caught:
            search(tiny(tmp_path, train=Recipe(epochs=1, batch_size=256, lr=1e30), budget=8))
        assert "trainings all failed; the last one: non-finite" in str(caught.value)
        assert "--lr" in str(caught.value)


class TestGoingOn:
    def test_more_budget(self, tmp_path: Path) -> None:
        first = search(tiny(tmp_path, budget=2))
        second = search(tiny(tmp_path, budget=4))
        assert first.ended == "the budget of 2 trainings is spent"
        assert second.ended == "the budget of 4 trainings is spent"
        assert second.trials["counts"].sum() == 4
        pd.testing.assert_frame_equal(first.trials, second.trials[: len(first.trials)], check_dtype=False)
        no_key_twice(second.trials[second.trials["counts"]])

    def test_same_budget_again_trains_nothing(self, tmp_path: Path) -> None:
        first = search(tiny(tmp_path, budget=2))
        again = search(tiny(tmp_path, budget=2))
        pd.testing.assert_frame_equal(first.trials, again.trials)

    def test_each_network_has_a_seed_of_its_own(self, tmp_path: Path) -> None:
        """One seed for all would lend its luck to all similar networks."""
        own = search(tiny(tmp_path, budget=3)).trials["seed"]
        assert own.nunique() == 3
        pd.testing.assert_series_equal(
            search(tiny(tmp_path, budget=3, out=str(tmp_path / "again"))).trials["seed"], own
        )
        assert search(tiny(tmp_path, budget=3, out=str(tmp_path / "one"), vary_seed=False)).trials["seed"].eq(0).all()

    def test_extra_reduction_carries_the_trials_over(self, tmp_path: Path) -> None:
        first = search(tiny(tmp_path, budget=3))
        wider = write_space(tmp_path, "reductions: [none, 16, 4]\n", "wider.yaml")
        second = search(tiny(tmp_path, budget=5, space=wider))
        assert second.ended == "the budget of 5 trainings is spent"
        same = ["trial", "key", "state", "placement", "metric", "params", "macs", "seconds", "seed"]
        pd.testing.assert_frame_equal(first.trials[same], second.trials[same][: len(first.trials)])
        no_key_twice(second.trials[second.trials["counts"]])
        # Back to the narrow space: that is not wider, and refused.
        with pytest.raises(RunError, match="cannot be continued with other settings"):
            search(tiny(tmp_path, budget=5))

    def test_widened_twice(self, tmp_path: Path) -> None:
        first = search(tiny(tmp_path, budget=2))
        for number, reductions in enumerate(["none, 16, 4", "none, 16, 8, 4"]):
            space = write_space(tmp_path, f"reductions: [{reductions}]\n", f"wider{number}.yaml")
            result = search(tiny(tmp_path, budget=3 + number, space=space))
        assert len(result.trials[result.trials["counts"]]) == 4
        assert list(result.trials["key"][:2]) == list(first.trials["key"])


def start(folder: Path, config: SearchConfig) -> subprocess.Popen[bytes]:
    """The search of a configuration as a command, in a session of its own."""
    file = folder / "config.yaml"
    plain = {k: v for k, v in to_plain(config).items() if v is not None}
    file.write_text(yaml.safe_dump(plain))
    with (folder / "output.txt").open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "se_nas.cli", "search", "--config", str(file)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(),
            start_new_session=True,
            cwd=folder,
        )


def end(process: subprocess.Popen[bytes], *, code: int, folder: Path, timeout: float = 60) -> str:
    """Wait for a search that should end with an exit code, and kill it if it does not; what it printed."""
    try:
        process.wait(timeout=timeout)
    finally:
        process.kill()
        process.wait()
    output = (folder / "output.txt").read_text()
    assert process.returncode == code, output
    assert "Traceback" not in output
    return output


@pytest.fixture
def slow(tmp_path: Path) -> SearchConfig:
    """A search of about one second for each training, which writes down every training that ends."""
    (tmp_path / "task.py").write_text(SLOW_TASK)
    return tiny(
        tmp_path,
        task=Target(target=f"{tmp_path / 'task.py'}:Slow"),
        executor=Target(target="local"),
        workers=2,
        budget=8,
        train=Recipe(epochs=2, batch_size=256),
    )


class TestInterruption:
    def test_kill_of_the_driver(self, tmp_path: Path, slow: SearchConfig) -> None:
        run = tmp_path / "run"
        process = start(tmp_path, slow)
        try:
            until(lambda: len(complete_trials(run)) >= 2, timeout=100, what="two trials")
            with pytest.raises(RunError, match="another search is running"):
                search(slow)
            workers = descendants(process.pid)
        finally:
            process.kill()
            process.wait(timeout=20)
        until(lambda: not any(alive(pid) for pid in workers), timeout=20, what="the end of the workers")
        assert len(workers) >= 3
        before = complete_trials(run)
        left = {int(file.name.partition("-")[0]) for file in (run / "results").glob("[0-9]*.json")}
        trained_before = (tmp_path / "trained.txt").read_text().splitlines()

        result = search(replace(slow, executor=Target(target="local")))

        table = result.trials[result.trials["counts"]]
        assert len(table) == 8
        no_key_twice(table)
        assert before | left <= set(table["trial"])
        interrupted = result.trials[result.trials["reason"] == "interrupted"]
        assert not interrupted["counts"].any()
        trained = Counter((tmp_path / "trained.txt").read_text().splitlines())
        assert len(trained) == 8
        # A training whose end was written down an instant before the kill may have left no result.
        assert sum(trained.values()) - 8 <= len(set(trained_before)) - len(before | left)

    def test_ctrl_c_finishes_what_is_running(self, tmp_path: Path, slow: SearchConfig) -> None:
        run = tmp_path / "run"
        process = start(tmp_path, slow)
        until(lambda: len(complete_trials(run)) >= 1, timeout=100, what="a trial")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: every process of the group gets it
        output = end(process, code=130, folder=tmp_path)
        assert "finishing what is running" in output
        assert "Ended: interrupted" in output
        first = counted(run)
        assert 1 <= len(first) < 8
        assert set(pd.read_csv(run / "trials.csv")["state"]) <= {"complete", "rejected"}

        result = search(slow)

        table = result.trials[result.trials["counts"]]
        assert len(table) == 8
        no_key_twice(table)
        assert set(first["key"]) <= set(table["key"])
        assert max(Counter((tmp_path / "trained.txt").read_text().splitlines()).values()) == 1

    def test_kill_of_a_worker(self, tmp_path: Path) -> None:
        """The first training of `resnet8` without SE kills its worker; the search goes on and tries it again."""
        (tmp_path / "deadly.py").write_text(
            "import multiprocessing, os, signal\n"
            "from pathlib import Path\n"
            "from se_nas.training.classification import Classification\n"
            "class Deadly(Classification):\n"
            "    def module(self, candidate, recipe, **facts):\n"
            "        mark = Path(__file__).with_name('mark')\n"
            "        if multiprocessing.parent_process() is None:  # the rehearsal\n"
            "            return super().module(candidate, recipe, **facts)\n"
            "        if not any('se_block' in n for n, _ in candidate.named_modules()) and not mark.exists():\n"
            "            mark.write_text('')\n"
            "            os.kill(os.getpid(), signal.SIGKILL)\n"
            "        return super().module(candidate, recipe, **facts)\n"
        )
        config = tiny(
            tmp_path,
            task=Target(target=f"{tmp_path / 'deadly.py'}:Deadly"),
            executor=Target(target="local"),
            workers=1,
        )
        result = in_time(lambda: search(config), 120, "a search with one dead worker")
        assert result.ended == "the budget of 3 trainings is spent"
        failed = result.trials[result.trials["state"] == "failed"]
        assert list(failed["role"]) == ["baseline"]
        assert "ended with exit code -9" in failed["reason"].iloc[0]
        again = result.trials[(result.trials["role"] == "baseline") & result.trials["counts"]]
        assert list(again["attempts"]) == [2]

    def test_second_ctrl_c_ends_at_once_and_loses_nothing(self, tmp_path: Path, slow: SearchConfig) -> None:
        config = replace(slow, train=Recipe(epochs=200, batch_size=256))
        process = start(tmp_path, config)
        until(lambda: _running(tmp_path / "run"), timeout=100, what="a running trial")
        process.send_signal(signal.SIGINT)
        until(lambda: "finishing" in (tmp_path / "output.txt").read_text(), timeout=20, what="the answer to Ctrl-C")
        process.send_signal(signal.SIGINT)
        end(process, code=130, folder=tmp_path, timeout=30)
        study = Study.latest(f"sqlite:///{tmp_path / 'run' / 'study.db'}", "search")
        assert study is not None
        assert {t.state for t in study.trials()} <= {"running", "failed"}


def _running(run: Path) -> bool:
    import sqlite3

    if not (run / "study.db").is_file():
        return False
    connection = sqlite3.connect(f"file:{run / 'study.db'}?mode=ro", uri=True, timeout=30)
    try:
        return connection.execute("select count(*) from trials where state = 'RUNNING'").fetchone()[0] > 0
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()


def test_differences_name_each_leaf() -> None:
    old = {"a": {"b": 1, "c": [1, 2]}, "d": 0}
    new = {"a": {"b": 2, "c": [1, 3]}, "e": 0}
    assert differences(old, new) == ["a.b: 1 -> 2", "a.c[1]: 2 -> 3", "d: 0 -> None", "e: None -> 0"]
    assert differences(old, json.loads(json.dumps(old))) == []


def test_errors_are_se_nas_errors() -> None:
    assert issubclass(RunError, SeNasError)
