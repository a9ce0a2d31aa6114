"""A clock that is set back or forward while a search runs, or between two openings: nothing depends on it."""

from __future__ import annotations

import datetime as dt
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from helpers import environment, tiny, write_space

from se_nas.commands.results import report_again
from se_nas.commands.search import search
from se_nas.core.config import SearchConfig
from se_nas.core.errors import RunError
from se_nas.core.files import clear_parts, write_atomically
from se_nas.core.placement import Placement
from se_nas.core.trial import Trial
from se_nas.engine.leases import Leases
from se_nas.engine.run_folder import RunFolder
from se_nas.engine.study import SET_BACK, Study
from se_nas.executors.remote import _Tray
from se_nas.report.view import View

HOUR, DAY, YEAR = 3600.0, 86400.0, 365 * 86400.0


class Clock:
    """The clock on the wall of this process; `shift` is by how many seconds it is wrong."""

    shift = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    own, now = Clock(), time.time

    class Shifted(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Shifted:
            return cls.fromtimestamp(now() + own.shift, tz)

    monkeypatch.setattr(time, "time", lambda: now() + own.shift)
    monkeypatch.setattr("optuna.storages._rdb.storage.datetime", Shifted)
    return own


def study_of(folder: Path, storage: str | None = None) -> Study:
    study = Study.latest(storage or RunFolder(folder).storage, "search")
    assert study is not None
    return study


class TestJumps:
    @pytest.mark.parametrize("jump", [-3 * YEAR, -2 * HOUR, 40 * YEAR], ids="{:+.0f}".format)
    @pytest.mark.parametrize("when", ["while one is trained", "between two"])
    def test_in_a_search(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock, capsys: pytest.CaptureFixture[str],
        jump: float, when: str,
    ) -> None:  # fmt: skip
        """With an hour for all, and ten minutes for each training."""
        start = Study.start

        def started(self: Study, trial: optuna.Trial, record: Trial) -> Trial:
            begun = start(self, trial, record)
            if when == "while one is trained" and record.number == 1:
                clock.shift += jump
            return begun

        def ended(trial: Trial) -> None:
            if when == "between two" and trial.number == 1:
                clock.shift += jump

        monkeypatch.setattr(Study, "start", started)
        began = time.monotonic()
        result = search(tiny(tmp_path, max_time="1h", trial_timeout="10m"), on_trial=ended, view=View())
        assert result.ended == "the budget of 3 trainings is spent"
        assert list(result.trials["state"]) == ["complete"] * 3
        assert all(0 < seconds < time.monotonic() - began for seconds in result.trials["seconds"])
        said = " ".join(capsys.readouterr().err.split())
        left = re.findall(r"about (\S+) (\S+) left", said)
        assert len(left) == 3
        assert all(float(number) >= 0 and unit in ("s", "min") for number, unit in left), left
        page = (tmp_path / "run" / "report.html").read_text()
        assert (SET_BACK in page) == (jump < 0), "what the clock makes unknown is said, and only that"
        assert SET_BACK not in "".join(study_of(tmp_path / "run").times()) or jump < 0

    @pytest.mark.parametrize("wrong", [-DAY, 30 * YEAR], ids="{:+.0f}".format)
    def test_between_two_openings(self, tmp_path: Path, clock: Clock, wrong: float) -> None:
        """The first is killed in the middle while its clock is wrong."""
        clock.shift = wrong
        _, (trial,) = killed(tmp_path, tiny(tmp_path))
        clock.shift = 0.0
        result = search(tiny(tmp_path))
        assert result.ended == "the budget of 3 trainings is spent"
        assert result.trials["counts"].sum() == 3
        left = {t.number: t for t in study_of(tmp_path / "run").trials()}[trial.number]
        assert (left.state, left.reason) == ("failed", "interrupted")

    def test_pages_of_a_clock_before_and_after_all_others(self, tmp_path: Path, clock: Clock) -> None:
        for year in (1970, 2106):
            clock.shift = (year - time.gmtime().tm_year) * YEAR
            search(tiny(tmp_path, out=str(tmp_path / str(year)), budget=1))
        clock.shift = 0.0
        for year in (1970, 2106):
            report_again(tmp_path / str(year))
            assert study_of(tmp_path / str(year)).times()[0]


def killed(folder: Path, config: SearchConfig) -> tuple[Study, list[Trial]]:
    """A search that dies as it begins its second training: its study, and what runs in it."""

    class KilledError(BaseException):
        pass

    def dies(trial: Trial) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        search(config, on_trial=dies)
    study = study_of(folder / "run", config.storage)
    placement = next(p for p in study.space.placements() if p.key not in {t.placement.key for t in study.trials()})
    record = replace(study.trials()[0], placement=placement, state="running", counts=False, role="", metrics={})
    study.start(study.ask_nothing(), record)
    return study, [t for t in study.trials() if t.state == "running"]


@pytest.fixture
def shared(tmp_path: Path) -> Callable[..., SearchConfig]:
    """Configurations of searches with run folders of their own and one study."""
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    return lambda name, **changes: tiny(tmp_path, storage=storage, out=str(tmp_path / name), **changes)


class Elsewhere:
    """A driver on another machine, whose clock is wrong; it renews the lease of what it trains."""

    def __init__(self, study: Study, trial: Trial, clock: Clock, wrong: float) -> None:
        self.study, self.trial, self.wrong, self.clock = study, trial, wrong, clock
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._renew)

    def _renew(self) -> None:
        while not self.over.wait(0.2):
            lease = time.time() - self.clock.shift + self.wrong
            with self.study.turn:
                plain = self.study.optuna.trials[self.trial.number].user_attrs["record"]
                self.study._write(self.trial.number, "record", {**plain, "lease": lease})

    def __enter__(self) -> Elsewhere:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()


@pytest.mark.parametrize("wrong", [-30 * YEAR, 30 * YEAR], ids="{:+.0f}".format)
class TestAnotherDriver:
    """One whose clock is wrong by so much is alive or dead by what it does."""

    def test_that_lives_keeps_its_training(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock, shared: Callable[..., SearchConfig],
        wrong: float,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(Study, "lease", 2.0)
        study, (trial,) = killed(tmp_path, shared("run"))
        first = study.trials()[0]
        with Elsewhere(study, trial, clock, wrong) as other:

            def ends(trained: Trial) -> None:
                """Ours is done: theirs still runs for longer than a lease, then ends."""

                def later() -> None:
                    time.sleep(5)
                    other.over.set()
                    other.thread.join()
                    study.finish(replace(first, number=trial.number, placement=trial.placement))

                threading.Thread(target=later).start()

            result = search(shared("second"), on_trial=ends)
        assert result.ended == "the budget of 3 trainings is spent"
        states = {t.number: t.state for t in study.trials()}
        assert states == dict.fromkeys(range(3), "complete"), "nothing was begun again"

    def test_that_is_dead_is_waited_for_and_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock, shared: Callable[..., SearchConfig],
        capsys: pytest.CaptureFixture[str], wrong: float,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(Study, "lease", 1.0)
        clock.shift = wrong
        study, (trial,) = killed(tmp_path, shared("run", budget=2))
        clock.shift = 0.0
        result = search(shared("second", budget=2), view=View())
        assert result.ended == "the budget of 2 trainings is spent"
        assert {t.number: t.state for t in study.trials()}[trial.number] == "failed"
        said = " ".join(capsys.readouterr().err.split())
        assert (
            "waiting for trainings of another driver: 1, to be begun again if it gives no sign of life for 1 s" in said
        )

    def test_a_wider_space_waits_for_what_it_does(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock, shared: Callable[..., SearchConfig],
        wrong: float,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(Study, "lease", 1.5)
        study, (trial,) = killed(tmp_path, shared("run", budget=2))
        study.renew(replace(trial, lease=0.0))
        wider = shared("second", budget=3, space=write_space(tmp_path, "reductions: [none, 16, 8]\n", "wider.yaml"))
        with (
            Elsewhere(study, trial, clock, wrong),
            pytest.raises(RunError, match="another search is at work in the study"),
        ):
            search(wider)
        assert study_of(tmp_path, study.url).name == "search", "nothing was carried over"
        result = search(wider)
        assert result.ended == "the budget of 3 trainings is spent"
        assert study_of(tmp_path, study.url).name == "search, space 2"


def running(number: int, lease: float) -> Trial:
    from helpers import trial

    return trial(Placement(choices={}), number, lease=lease)


def test_a_lease_is_given_up_when_it_is_not_renewed_while_we_look(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    leases = Leases()
    a, b = running(1, 5.0), running(2, 0.0)
    assert leases.given_up([a, b], 60) == []
    now[0] += 59
    assert leases.given_up([a, replace(b, lease=-7.0)], 60) == []
    now[0] += 2
    b = replace(b, lease=-7.0)
    assert leases.given_up([a, b], 60) == [a]
    now[0] += 60
    assert leases.given_up([b], 60) == [b]
    assert leases.given_up([a, b], 60) == [b], "one that was not there meanwhile is looked at anew"


class TestFiles:
    def test_results_of_a_worker_elsewhere_come_last_when_its_clock_is_set_back(self, tmp_path: Path) -> None:
        """A driver that is killed in between must not find a result whose weights never came."""
        tray = _Tray(tmp_path / "tray", keep={})
        tray.fill({})
        now = time.time()
        for name, age in (("weights/1.safetensors", 0.0), ("logs/1.csv", -5.0), ("results/1-1.json", -2 * HOUR)):
            file = tmp_path / "tray" / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(name)
            os.utime(file, (now + age, now + age))
        assert list(tray.news()) == ["logs/1.csv", "weights/1.safetensors", "results/1-1.json"]
        assert tray.news() == {}

    def test_files_from_the_future_are_data_like_others(self, tmp_path: Path) -> None:
        config = tiny(tmp_path, budget=1)
        search(config)
        then = time.time() + 30 * YEAR
        for file in (tmp_path / "run").rglob("*"):
            os.utime(file, (then, then))
        assert search(replace(config, budget=2)).ended == "the budget of 2 trainings is spent"

    def test_parts_of_files_that_killed_processes_left_are_removed_by_the_next_call(self, tmp_path: Path) -> None:
        search(tiny(tmp_path, budget=1))
        run = tmp_path / "run"
        code = (
            "import os, signal, sys\nfrom pathlib import Path\nfrom se_nas.core.files import atomically\n"
            "with atomically(Path(sys.argv[1])) as file:\n"
            "    file.write_text('half')\n"
            "    if sys.argv[2] == 'killed': os.kill(os.getpid(), signal.SIGKILL)\n"
            "    print('ready', flush=True); sys.stdin.read()\n"
        )
        for name in ("report.html", "weights/7.safetensors"):
            done = subprocess.run([sys.executable, "-c", code, str(run / name), "killed"], env=environment())
            assert done.returncode == -9
        with subprocess.Popen(
            [sys.executable, "-c", code, str(run / "x"), ""], env=environment(), stdin=-1, stdout=-1
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            elsewhere = run / ".1-00000000.theirs"  # of another machine, where there may be such a process
            elsewhere.touch()
            (run / ".mine").touch()
            before = {file.name.partition(".")[2].partition(".")[2] for file in run.rglob(".*")}
            assert before == {"report.html", "7.safetensors", "x", "theirs", ""}
            report_again(run)
            assert {f.name.rpartition(".")[2] for f in run.rglob(".*")} == {"x", "theirs", "mine"}
            writer.communicate(b"")
        assert (run / "x").read_text() == "half"
        elsewhere.unlink()
        assert [file.name for file in run.rglob(".*")] == [".mine"]

    def test_a_search_removes_them_too(self, tmp_path: Path) -> None:
        config = tiny(tmp_path, budget=1)
        search(config)
        file = tmp_path / "run" / "weights" / "3.safetensors"
        code = (
            "import os, sys\nfrom pathlib import Path\nfrom se_nas.core.files import atomically\n"
            "with atomically(Path(sys.argv[1])) as file:\n    file.touch()\n    os._exit(1)\n"
        )
        subprocess.run([sys.executable, "-c", code, str(file)], env=environment())
        assert len(list(file.parent.glob(".*"))) == 1
        search(config)
        assert list(file.parent.glob(".*")) == []

    def test_what_is_gone_meanwhile_is_no_error(self, tmp_path: Path) -> None:
        write_atomically(tmp_path / "x", b"x")
        clear_parts(tmp_path)
        clear_parts(tmp_path / "not there")
        assert [file.name for file in tmp_path.iterdir()] == ["x"]
