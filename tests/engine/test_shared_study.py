"""Several drivers on one study: turns, the budget, leases; on a real PostgreSQL server and in an SQLite file."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import yaml
from helpers import environment, tiny, until, write_space
from sqlalchemy import create_engine, text

from se_nas.commands.search import search
from se_nas.core.config import SearchConfig
from se_nas.core.errors import RunError
from se_nas.core.serialization import to_plain
from se_nas.core.trial import Recipe, Target, Trial
from se_nas.engine.storage import open_storage, turn
from se_nas.engine.study import Study

DRIVER = """
import sys
from se_nas.cli import main
from se_nas.engine.study import Study
Study.lease = float(sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""

SLOW_TASK = '''
import os, time
from pathlib import Path

from se_nas.training.classification import Classification, ClassificationModule


class Slow(Classification):
    """Takes its time, and writes down every training that ends."""

    def module(self, candidate, recipe, **facts):
        return SlowModule(candidate, recipe, steps=facts["steps"], class_counts=facts["class_counts"])


class SlowModule(ClassificationModule):
    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        time.sleep({seconds})

    def on_fit_end(self):
        if self.trainer.fast_dev_run:  # the rehearsal before a search
            return
        blocks = [f"{{name}}:{{m.fc1.out_features}}" for name, m in self.candidate.named_modules() if hasattr(m, "fc1")]
        with Path(__file__).with_name("trained.txt").open("a") as log:
            log.write(" ".join([os.environ["DRIVER"], *blocks]) + "\\n")
'''


def _program(name: str) -> str | None:
    newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return shutil.which(name) or (str(newest[-1]) if newest else None)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """URL of an empty PostgreSQL server of this module's own, without its database."""
    initdb, postgres = _program("initdb"), _program("postgres")
    if initdb is None or postgres is None:
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg")
    as_user = []
    if os.geteuid() == 0:  # initdb refuses root
        if shutil.which("setpriv") is None:
            pytest.skip("PostgreSQL refuses root, and there is no setpriv")
        as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    folder.chmod(0o777)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = str(folder / "data")
    made = subprocess.run(
        [*as_user, initdb, "-D", data, "-U", "tester", "-A", "trust", "--no-sync"],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert made.returncode == 0, made.stderr
    process = subprocess.Popen(
        [*as_user, postgres, "-D", data, "-p", str(port), "-k", str(folder), "-h", "127.0.0.1", "-F"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
    try:
        url = f"postgresql://tester:secret@127.0.0.1:{port}"
        until(lambda: _listens(port), timeout=30, what="the PostgreSQL server")
        yield url
    finally:
        process.send_signal(signal.SIGINT)  # fast shutdown
        process.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def _listens(port: int) -> bool:
    try:
        engine = create_engine(f"postgresql+psycopg://tester@127.0.0.1:{port}/postgres")
        with engine.connect() as connection:
            connection.execute(text("select 1"))
        engine.dispose()
    except Exception:
        return False
    return True


@pytest.fixture(params=["postgresql", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database that several drivers may use."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shared.db'}"
    return _new_database(request.getfixturevalue("server"), f"d{abs(hash(str(tmp_path))) % 10**9}")


def _new_database(server: str, name: str) -> str:
    engine = create_engine(server.replace("postgresql://", "postgresql+psycopg://") + "/postgres")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"create database {name}"))
    engine.dispose()
    return f"{server}/{name}"


def driver(folder: Path, name: str, config: SearchConfig, *, lease: float = 60) -> subprocess.Popen[bytes]:
    """A search as a process of its own, with a run folder of its own."""
    file = folder / f"{name}.yaml"
    config = replace(config, out=str(folder / name))
    file.write_text(yaml.safe_dump({k: v for k, v in to_plain(config).items() if v is not None}))
    with (folder / f"{name}.txt").open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(lease), "search", "--config", str(file)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(DRIVER=name),
            cwd=folder,
        )


def finished(folder: Path, name: str, process: subprocess.Popen[bytes]) -> str:
    try:
        process.wait(timeout=400)
    finally:
        process.kill()
        process.wait()
    output = (folder / f"{name}.txt").read_text()
    assert process.returncode == 0, output
    return output


def trials_of(storage: str) -> list[Trial]:
    study = Study.latest(storage, "search")
    return [] if study is None else study.trials()


def slow_search(folder: Path, storage: str, *, seconds: float, **changes: object) -> SearchConfig:
    (folder / "task.py").write_text(SLOW_TASK.format(seconds=seconds))
    return tiny(
        folder,
        task=Target(target=f"{folder / 'task.py'}:Slow"),
        space=write_space(folder, "reductions: [none, 16, 8]\n"),
        storage=storage,
        train=Recipe(epochs=1, batch_size=256, precision="32"),
        **changes,
    )


class TestTurn:
    def test_one_at_a_time(self, storage: str) -> None:
        """Counting in a file, reading and writing with a pause between, loses nothing in turns."""
        held: list[bool] = []

        def other() -> None:
            with turn(storage):
                held.append(True)

        with turn(storage), turn(storage):
            thread = threading.Thread(target=other)
            thread.start()
            thread.join(0.3)
            assert held == []
        thread.join(10)
        assert held == [True]

    def test_processes_take_turns(self, storage: str, tmp_path: Path) -> None:
        count = tmp_path / "count"
        count.write_text("0")
        code = (
            "import sys, time\nfrom pathlib import Path\nfrom se_nas.engine.storage import turn\n"
            "for _ in range(20):\n"
            "    with turn(sys.argv[1]):\n"
            "        n = int(Path(sys.argv[2]).read_text()); time.sleep(0.005)\n"
            "        Path(sys.argv[2]).write_text(str(n + 1))\n"
        )
        command = [sys.executable, "-c", code, storage, str(count)]
        both = [subprocess.Popen(command, env=environment()) for _ in range(2)]
        assert [process.wait(60) for process in both] == [0, 0]
        assert count.read_text() == "40"

    def test_two_that_begin_together_make_one_set_of_tables(self, server: str, tmp_path: Path) -> None:
        url = _new_database(server, "together")
        code = "import sys\nfrom se_nas.engine.storage import open_storage\nopen_storage(sys.argv[1])\n"
        both = [subprocess.Popen([sys.executable, "-c", code, url], env=environment()) for _ in range(2)]
        assert [process.wait(60) for process in both] == [0, 0]


class TestServer:
    def test_gives_the_same_search_as_a_file(self, server: str, tmp_path: Path) -> None:
        url = _new_database(server, "same")
        (tmp_path / "there").mkdir()
        here = search(tiny(tmp_path, budget=4)).trials
        there = search(tiny(tmp_path / "there", budget=4, storage=url)).trials
        same = ["trial", "key", "state", "placement", "metric", "params", "macs"]
        assert here[same].equals(there[same])

    def test_connections_that_broke_are_replaced(self, server: str) -> None:
        url = _new_database(server, "broken")
        storage = open_storage(url)
        optuna.create_study(storage=storage, study_name="x")
        engine = create_engine(server.replace("postgresql://", "postgresql+psycopg://") + "/postgres")
        with engine.connect() as connection:
            connection.execute(text("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'broken'"))
        engine.dispose()
        assert optuna.get_all_study_names(storage) == ["x"]
        with turn(url):
            pass

    def test_a_server_that_is_away_is_an_error_without_the_password(self) -> None:
        with pytest.raises(RunError) as caught:
            open_storage("postgresql://tester:secret@127.0.0.1:9/none")
        assert "cannot use the study storage 'postgresql://tester:***@127.0.0.1:9/none'" in str(caught.value)
        assert "secret" not in str(caught.value)


class TestTwoDrivers:
    def test_spend_the_budget_together_and_train_nothing_twice(self, storage: str, tmp_path: Path) -> None:
        config = slow_search(tmp_path, storage, seconds=0.2, budget=12)
        both = {name: driver(tmp_path, name, config) for name in ("first", "second")}
        for name, process in both.items():
            assert "the budget of 12 trainings is spent" in finished(tmp_path, name, process)
        trained = (tmp_path / "trained.txt").read_text().splitlines()
        drivers, networks = zip(*(line.partition(" ")[::2] for line in trained), strict=True)
        assert len(networks) == 12
        assert [net for net, times in Counter(networks).items() if times > 1] == []
        assert set(drivers) == {"first", "second"}
        trials = trials_of(storage)
        assert sum(t.counts for t in trials) == 12
        assert {t.state for t in trials} <= {"complete", "rejected"}
        assert (tmp_path / "first" / "trials.csv").read_bytes() == (tmp_path / "second" / "trials.csv").read_bytes()

    @pytest.mark.slow
    def test_one_takes_over_what_the_other_left(self, storage: str, tmp_path: Path) -> None:
        config = slow_search(tmp_path, storage, seconds=2.0, budget=4)
        first = driver(tmp_path, "first", config)
        until(lambda: any(t.state == "running" for t in trials_of(storage)), timeout=240, what="a first training")
        first.kill()
        first.wait()
        (left,) = (t for t in trials_of(storage) if t.state == "running")
        output = finished(tmp_path, "second", driver(tmp_path, "second", config, lease=3))
        assert "the budget of 4 trainings is spent" in output
        trials = trials_of(storage)
        assert sum(t.counts for t in trials) == 4
        (taken,) = (t for t in trials if t.number == left.number)
        assert (taken.state, taken.reason) == ("failed", "interrupted")
        again = [t for t in trials if t.placement.key == left.placement.key and t.state == "complete"]
        assert len(again) == 1
        assert again[0].attempts == 1

    @pytest.mark.slow
    def test_a_wider_space_waits_for_the_other(self, storage: str, tmp_path: Path) -> None:
        config = slow_search(tmp_path, storage, seconds=20.0, budget=4)
        first = driver(tmp_path, "first", config)
        try:
            until(lambda: any(t.state == "running" for t in trials_of(storage)), timeout=240, what="a first training")
            wider = write_space(tmp_path, "reductions: [none, 16, 8, 4]\n", "wider.yaml")
            with pytest.raises(RunError, match="another search is at work in the study"):
                search(replace(config, space=wider, out=str(tmp_path / "second")))
        finally:
            first.kill()
            first.wait()


def test_a_driver_says_that_the_best_network_lies_elsewhere(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    for name, budget in (("one", 2), ("two", 4), ("one", 4)):
        search(tiny(tmp_path, storage=storage, budget=budget, out=str(tmp_path / name)))
    results = [search(tiny(tmp_path, storage=storage, budget=4, out=str(tmp_path / name))) for name in ("one", "two")]
    said = [" ".join(result.summary.gained) for result in results]
    assert sum("are not in this folder (the driver that trained it has them)" in text for text in said) == 1


def test_equal_machine_names_and_paths_are_told_apart(tmp_path: Path) -> None:
    from se_nas.engine.run_folder import RunFolder

    owners = []
    for _ in range(2):
        run = RunFolder(tmp_path / "run")
        run.lock()
        owners.append(run.owner)
        assert run.owned_by_us(run.owner)
        run.unlock()
        shutil.rmtree(tmp_path / "run")
    assert not run.owned_by_us(owners[0])


def test_the_rank_of_a_driver(tmp_path: Path) -> None:
    search(tiny(tmp_path, budget=1))
    study = Study.latest(f"sqlite:///{tmp_path / 'run' / 'study.db'}", "search")
    assert study is not None
    assert [study.join("a"), study.join("b")] == [0, 1]
