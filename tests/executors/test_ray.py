"""The executor on Ray: its cluster, what travels, and what a lost worker or machine costs."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path

import helpers
import numpy as np
import pytest
import yaml
from helpers import alive, complete_trials, descendants, environment, in_time, request, tiny, until, write_npz

from se_nas.commands.confirm import confirm
from se_nas.commands.search import search
from se_nas.core.config import SearchConfig
from se_nas.core.errors import ConfigError, TrainingError, WorkerLostError, reason_of
from se_nas.core.plugins import load
from se_nas.core.protocols import Executor
from se_nas.core.serialization import to_plain
from se_nas.core.trial import Recipe, Request, Result, Target, Verdict
from se_nas.data.sealed import openings
from se_nas.data.store import open_part, prepare_data
from se_nas.engine.patience import end
from se_nas.executors.build import open_executor, slots_elsewhere
from se_nas.executors.remote import Worker
from se_nas.executors.shipment import pack, relocated, unpack
from se_nas.executors.slots import WorkerDiedError

PATIENCE = 120
RAY = Target(target="ray")

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


def go_on(epoch: int, metrics: Mapping[str, float]) -> Verdict:
    return "continue"


class TestShipment:
    """What travels; none of it needs Ray."""

    def test_data_are_found_where_they_are_unpacked_without_being_written(self, tmp_path: Path) -> None:
        write_npz(tmp_path / "data.npz")
        prepare_data(Target(target=f"npz:{tmp_path / 'data.npz'}"), tmp_path)
        shipment, arrays = pack(request(folder=str(tmp_path)))
        assert set(shipment.files) == {"data/data.json"}
        unpack(shipment, tuple(arrays), tmp_path / "there")
        assert {file.name for file in (tmp_path / "there" / "data").iterdir()} == {"data.json"}
        for part in ("train", "val"):
            here, there = open_part(tmp_path, part), open_part(tmp_path / "there", part)
            np.testing.assert_array_equal(here.images, there.images)
            np.testing.assert_array_equal(here.labels, there.labels)

    def test_code_travels_with_its_neighbours_and_files_that_arguments_name(self, tmp_path: Path) -> None:
        home, there = tmp_path / "home", tmp_path / "there"
        (home / "package").mkdir(parents=True)
        (home / "net.py").write_text("from neighbour import width\nfrom package.more import depth\n")
        (home / "neighbour.py").write_text("width = 7\n")
        (home / "package" / "__init__.py").write_text("")
        (home / "package" / "more.py").write_text("depth = 3\n")
        (home / "weights.bin").write_bytes(b"weights")
        (home / "diary.txt").write_text("private")
        backbone = Target(target=f"{home / 'net.py'}:width", args={"weights": str(home / "weights.bin"), "n": 3})
        sent = request(folder=str(tmp_path), backbone=backbone)
        shipment, arrays = pack(sent)
        names = sorted(name.rpartition("/")[2] for name in shipment.files)
        assert names == ["__init__.py", "more.py", "neighbour.py", "net.py", "weights.bin"]
        unpack(shipment, tuple(arrays), there)
        assert relocated(sent, shipment, there) == Request(**{**vars(sent), "folder": str(there)})  # same machine
        for file in home.rglob("*.*"):
            file.unlink()  # now it is another machine
        unpack(shipment, tuple(arrays), there)
        got = relocated(sent, shipment, there)
        assert Path(got.backbone.args["weights"]).read_bytes() == b"weights"
        assert got.backbone.args["n"] == 3
        assert got.identity == sent.identity
        assert load(got.backbone.target) == 7

    def test_a_package_that_is_not_installed_travels(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        package = tmp_path / "own_networks"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "net.py").write_text("width = 5\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        shipment, _ = pack(request(folder=str(tmp_path), backbone=Target(target="own_networks.net:width")))
        assert sorted(name.rpartition("own_networks/")[2] for name in shipment.files) == ["__init__.py", "net.py"]
        (folder,) = shipment.modules
        assert f"{folder}/own_networks/net.py" in shipment.files

    @pytest.mark.parametrize("name", ["resnet8", "hf:microsoft/resnet-18", "torch.nn:ReLU", "json:loads"])
    def test_what_is_installed_does_not(self, tmp_path: Path, name: str) -> None:
        shipment, _ = pack(request(folder=str(tmp_path), backbone=Target(target=name)))
        assert (shipment.files, shipment.moved, shipment.modules) == ({}, {}, ())


def leaves_files(request: Request, channel: helpers.Channel) -> Result:
    folder = Path(request.folder)
    (folder / "weights").mkdir(exist_ok=True)
    (folder / "checkpoint").write_text("1")
    channel.report(1, {})
    (folder / "checkpoint").unlink()
    (folder / "weights" / "0.safetensors").write_bytes(b"w")
    time.sleep(0.01)
    (folder / "result").write_text("done")
    return Result(trial=request.trial, state="complete")


class TestWorker:
    """The worker without Ray: its messages and the files that come with them."""

    @pytest.fixture
    def worker(self) -> Iterator[Worker]:
        before = signal.getsignal(signal.SIGINT)
        worker = Worker()
        signal.signal(signal.SIGINT, before)
        yield worker
        worker.close()

    def test_files_come_back_in_the_order_of_writing(self, worker: Worker, tmp_path: Path) -> None:
        shipment, arrays = pack(request(folder=str(tmp_path)))
        worker.receive(shipment, *arrays)
        for _ in range(2):  # what the first evaluation left does not come with the second
            first = worker.start(leaves_files, request(), shipment.key, {})
            assert (first.kind, first.files) == ("report", {"checkpoint": b"1"})
            second = worker.answer("continue")
            assert (second.kind, second.content.state) == ("result", "complete")
            assert list(second.files.items()) == [
                ("weights/0.safetensors", b"w"), ("result", b"done"), ("checkpoint", None),
            ]  # fmt: skip

    def test_signs_of_life_want_no_answer(self, worker: Worker, tmp_path: Path) -> None:
        shipment, arrays = pack(request(folder=str(tmp_path)))
        worker.receive(shipment, *arrays)
        messages = [worker.start(helpers.evaluate_pulsing, request(), shipment.key, {})]
        messages += [in_time(worker.next, 60, "the next message") for _ in range(3)]
        messages.append(worker.answer("continue"))
        messages.append(in_time(worker.next, 60, "the next message"))
        assert [message.kind for message in messages] == ["alive", "alive", "alive", "report", "alive", "result"]

    def test_an_evaluation_that_would_end_its_process_is_told(self, worker: Worker, tmp_path: Path) -> None:
        """The driver waits for a message, which a thread that just ends would never send."""
        shipment, arrays = pack(request(folder=str(tmp_path)))
        worker.receive(shipment, *arrays)
        message = in_time(lambda: worker.start(helpers.evaluate_ending, request(), shipment.key, {}), 60, "its end")
        assert (message.kind, str(message.content)) == ("error", "the training ended its process by SystemExit: 3")


@needs_ray
class TestSearch:
    def test_equals_a_local_search(self, tmp_path: Path) -> None:
        """Same seed: same placements, same numbers, same weights; the user's network comes from a file."""
        (tmp_path / "there").mkdir()
        settings = {"budget": 3, "keep_weights": "all", "workers": 1}
        here = search(tiny(tmp_path, **settings))
        there = search(tiny(tmp_path / "there", executor=RAY, **settings))
        same = ["trial", "key", "state", "placement", "metric", "macs", "seed", "epochs", "versions", "commit"]
        same = [name for name in same if name in here.trials]
        assert here.trials[same].equals(there.trials[same])
        for number in range(3):
            name = f"weights/{number}.safetensors"
            assert (here.folder / name).read_bytes() == (there.folder / name).read_bytes()
        assert list((there.folder / "results").iterdir()) == []

    @pytest.mark.slow
    def test_a_confirm_equals_a_local_one(self, tmp_path: Path) -> None:
        """The exam needs the test set and the trained weights, which a worker elsewhere must be sent."""
        folders = [tmp_path / name for name in ("here", "there")]
        for folder in folders:
            folder.mkdir()
            search(tiny(folder, budget=3, executor=Target(target="inline")))
        local, remote = (
            confirm(folder / "run", top=1, seeds=2, executor=executor)
            for folder, executor in zip(folders, (None, RAY), strict=True)
        )
        for here, there in zip(local.networks, remote.networks, strict=True):
            assert (here.key, here.validation, here.test) == (there.key, there.validation, there.test)
        assert local.verdict == remote.verdict
        assert openings(folders[1] / "run")[0]["images"] == local.test_images


@pytest.fixture(scope="module")
def ray_of_this_machine() -> Iterator[None]:
    """One cluster of two slots for all tests of the executor."""
    from se_nas.executors.cluster import connect, disconnect

    ray = connect(None)
    yield
    disconnect()
    assert not ray.is_initialized()


@pytest.fixture
def executor(ray_of_this_machine: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Executor]:
    monkeypatch.setattr("se_nas.executors.ray.disconnect", lambda: None)  # the next test goes on with it
    executor = open_executor(RAY, ("cpu", "cpu"))
    yield executor
    in_time(executor.shutdown, PATIENCE, "the end of the executor")


@needs_ray
@pytest.mark.slow
class TestExecutor:
    def test_reports_reach_the_driver_and_stop_reaches_the_training(self, executor: Executor) -> None:
        seen: list[tuple[int, float]] = []

        def report(epoch: int, metrics: Mapping[str, float]) -> Verdict:
            seen.append((epoch, metrics["value"]))
            return "stop" if epoch == 3 else "continue"

        result = executor.submit(helpers.evaluate_reporting, request(trial=7), report).result(PATIENCE)
        assert seen == [(1, 0.1), (2, 0.2), (3, 0.3)]
        assert (result.trial, result.state, result.reason) == (7, "stopped", "after epoch 3")
        assert (executor.slots, result.device) == (2, "cpu")

    def test_signs_of_life_are_reports_of_no_epoch(self, executor: Executor) -> None:
        seen: list[tuple[int, dict[str, float]]] = []

        def report(epoch: int, metrics: Mapping[str, float]) -> Verdict:
            seen.append((epoch, dict(metrics)))
            return "continue"

        assert executor.submit(helpers.evaluate_pulsing, request(), report).result(PATIENCE).state == "complete"
        signs = [(0, {"epoch": 1.0, "batch": batch, "loss": 0.1}) for batch in (1, 2, 3)]
        assert seen == [*signs, (1, {"value": 0.5}), (0, {})]

    def test_errors_arrive_whole(self, executor: Executor) -> None:
        error = executor.submit(helpers.evaluate_mistake, request(), go_on).exception(PATIENCE)
        assert isinstance(error, ConfigError)
        assert str(error) == "no such thing\n  in here\n  allowed: this, that\n  hint: look there"
        error = executor.submit(helpers.evaluate_full_disk, request(), go_on).exception(PATIENCE)
        assert isinstance(error, OSError)
        assert error.errno == 28
        assert "No space left on device (on " in str(error)

    def test_a_killed_worker_fails_its_evaluation_only(self, executor: Executor) -> None:
        futures: list[Future[Result]] = [
            executor.submit(helpers.evaluate_suicide if n == 1 else helpers.evaluate_reporting, request(trial=n), go_on)
            for n in range(5)
        ]
        error = futures[1].exception(PATIENCE)
        assert isinstance(error, WorkerDiedError)
        assert [futures[n].result(PATIENCE).trial for n in (0, 2, 3, 4)] == [0, 2, 3, 4]

    @pytest.mark.parametrize("elsewhere", [False, True])
    def test_an_exit_is_told_with_the_last_lines(
        self, executor: Executor, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As of a local worker, but for its exit code; from another machine, too, whose files are not seen here."""
        if elsewhere:
            monkeypatch.setattr("se_nas.executors.ray.Path.is_file", lambda _: False)
        error = executor.submit(helpers.evaluate_exit, request(), go_on).exception(PATIENCE)
        assert isinstance(error, WorkerDiedError)
        what = r"worker \d+ ended unexpectedly, with an exit code that Ray does not tell"
        assert re.fullmatch(
            f"{what}; its last output: reading the images \\| the licence server says no", reason_of(error)
        )

    def test_a_crash_is_told_with_its_place(self, executor: Executor) -> None:
        error = executor.submit(helpers.evaluate_crash, request(), go_on).exception(PATIENCE)
        reason = reason_of(error or Exception())
        assert "; its last output: Fatal Python error: Segmentation fault | " in reason
        assert "in string_at" in reason
        assert len(reason) < 1500

    def test_sys_exit_is_told_with_the_last_lines(self, executor: Executor) -> None:
        error = executor.submit(helpers.evaluate_ending, request(), go_on).exception(PATIENCE)
        assert re.fullmatch(
            r"the training ended its process by SystemExit: 3; its last output: usage: train.py \[-h\] \(\d+\)",
            reason_of(error or Exception()),
        )
        error = executor.submit(helpers.evaluate_suicide, request(), go_on).exception(PATIENCE)
        assert reason_of(error or Exception()).endswith("; it printed nothing")  # that was another evaluation

    def test_workers_are_others_and_use_one_thread(self, executor: Executor) -> None:
        pids = {executor.submit(helpers.evaluate_pid, request(), go_on).result(PATIENCE).reason for _ in range(4)}
        assert 1 <= len(pids) <= 2
        assert str(os.getpid()) not in pids
        assert executor.submit(helpers.evaluate_threads, request(), go_on).result(PATIENCE).reason == "1"

    def test_a_report_that_fails_frees_the_slot(self, executor: Executor) -> None:
        def report(epoch: int, metrics: Mapping[str, float]) -> Verdict:
            raise ValueError("no")

        error = executor.submit(helpers.evaluate_reporting, request(), report).exception(PATIENCE)
        assert isinstance(error, WorkerDiedError)
        assert executor.submit(helpers.evaluate_reporting, request(), go_on).result(PATIENCE).state == "complete"

    def test_one_that_hangs_is_ended_and_the_slot_goes_on(self, executor: Executor, tmp_path: Path) -> None:
        future = executor.submit(helpers.evaluate_endless, request(folder=str(tmp_path)), go_on)
        until(lambda: end(executor, future, "no sign of life"), timeout=PATIENCE, what="its start")
        error = future.exception(PATIENCE)
        assert (type(error), str(error)) == (TrainingError, "no sign of life")
        assert executor.submit(helpers.evaluate_reporting, request(), go_on).result(PATIENCE).state == "complete"

    def test_end_at_once(self, executor: Executor, tmp_path: Path) -> None:
        future = executor.submit(helpers.evaluate_endless, request(folder=str(tmp_path)), go_on)
        until(lambda: (tmp_path / "0.pid").is_file() or not future.running(), timeout=1, what="its start")
        in_time(lambda: executor.shutdown(wait=False), 30, "the end of the executor")


@needs_ray
@pytest.mark.slow
class TestRoom:
    @pytest.mark.parametrize(
        ("wish", "text"),
        [
            ({"workers": 1000}, r"workers is 1000, but the Ray cluster has room for \d+ trainings at a time"),
            ({"device": "cuda"}, "room for 0 trainings at a time: .* 0 GPU .* each training takes 1 CPU and 1 GPU"),
            ({"device": "cuda:1"}, "device is 'cuda:1'"),
        ],
    )
    def test_too_much_is_an_error(self, ray_of_this_machine: None, wish: dict[str, object], text: str) -> None:
        with pytest.raises(ConfigError, match=text) as caught:
            slots_elsewhere(RAY, **{"device": "auto", "workers": None, **wish})
        assert caught.value.hint

    @pytest.mark.parametrize("args", [{"gpus_per_trial": 1.5}, {"cpus_per_trial": 0}, {"address": "127.0.0.1:9"}])
    def test_wrong_arguments(self, args: dict[str, object]) -> None:
        with pytest.raises(ConfigError) as caught:
            slots_elsewhere(Target(target="ray", args=args), device="auto", workers=None)
        assert caught.value.hint or caught.value.allowed


@needs_ray
@pytest.mark.parametrize(
    ("cpus", "gpus", "machine", "room"),
    [
        (1, None, {"CPU": 4.0}, 4),
        (0.5, None, {"CPU": 4.0}, 8),
        (3, None, {"CPU": 4.0}, 1),
        (1, 1, {"CPU": 8.0, "GPU": 2.0}, 2),
        (1, 0.25, {"CPU": 8.0, "GPU": 2.0}, 8),
        (1, 0.25, {"CPU": 3.0, "GPU": 2.0}, 3),
        (1, 0.4, {"CPU": 8.0, "GPU": 2.0}, 4),
        (1, 0.1, {"CPU": 16.0, "GPU": 1.0}, 10),
        (1, 2, {"CPU": 8.0, "GPU": 3.0}, 1),
        (1, 1, {"CPU": 8.0}, 0),
    ],
)
def test_room_of_a_machine(cpus: float, gpus: float | None, machine: dict[str, float], room: int) -> None:
    from se_nas.executors.cluster import Reservation

    assert Reservation.of("cpu" if gpus is None else "cuda", cpus, gpus).room(machine) == room


@needs_ray
@pytest.mark.slow
class TestLost:
    def test_a_machine_that_goes_away(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its evaluation is lost through no fault of its own, the other machine goes on, no file is shared."""
        from ray.cluster_utils import Cluster

        from se_nas.executors.cluster import disconnect

        disconnect()  # from the cluster of the tests before
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # the machines have this module
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        machines = [cluster.add_node(num_cpus=1) for _ in range(2)]
        target = Target(target="ray", args={"address": cluster.address})
        try:
            slots = slots_elsewhere(target, device="auto", workers=None)
            assert slots == ("cpu", "cpu")
            executor = open_executor(target, slots)
            (tmp_path / "pids").mkdir()
            endless = [
                executor.submit(evaluate_until_told, request(trial=n, backbone=_telling(tmp_path)), go_on)
                for n in range(2)
            ]
            until(lambda: len(list((tmp_path / "pids").iterdir())) == 2, timeout=PATIENCE, what="both trainings")
            cluster.remove_node(machines[0], allow_graceful=False)
            lost = until(lambda: [f for f in endless if f.done()], timeout=PATIENCE, what="the loss")
            assert [type(future.exception()) for future in lost] == [WorkerLostError]
            (tmp_path / "end").write_text("")
            (other,) = (future for future in endless if future is not lost[0])
            assert other.result(PATIENCE).state == "complete"
            in_time(executor.shutdown, PATIENCE, "the end of the executor")
        finally:
            cluster.shutdown()


def _telling(folder: Path) -> Target:
    return Target(target="resnet8", args={"folder": f"told {folder}"})


def evaluate_until_told(request: Request, channel: helpers.Channel) -> Result:
    folder = Path(request.backbone.args["folder"].removeprefix("told "))
    (folder / "pids" / str(os.getpid())).write_text("")
    while not (folder / "end").is_file():
        time.sleep(0.05)
    return Result(trial=request.trial, state="complete")


def start(folder: Path, config: SearchConfig) -> subprocess.Popen[bytes]:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({k: v for k, v in to_plain(config).items() if v is not None}))
    with (folder / "output.txt").open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "se_nas.cli", "search", "--config", str(file)],
            stdout=output, stderr=subprocess.STDOUT, env=environment(), start_new_session=True, cwd=folder,
        )  # fmt: skip


@needs_ray
@pytest.mark.slow
class TestEnd:
    @pytest.fixture
    def config(self, tmp_path: Path) -> SearchConfig:
        recipe = Recipe(epochs=12, batch_size=64, precision="32")
        return tiny(tmp_path, executor=RAY, workers=2, budget=6, train=recipe)

    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_leaves_no_process_and_goes_on(self, tmp_path: Path, config: SearchConfig, how: signal.Signals) -> None:
        process = start(tmp_path, config)
        try:
            until(lambda: complete_trials(tmp_path / "run"), timeout=180, what="a first training")
            below = descendants(process.pid)
            assert below
            if how == signal.SIGINT:
                os.killpg(process.pid, how)  # as a terminal does
            else:
                process.send_signal(how)
            process.wait(60)
        finally:
            process.kill()
            process.wait()
        output = (tmp_path / "output.txt").read_text()
        assert "Traceback" not in output
        until(lambda: not any(alive(pid) for pid in below), timeout=150, what="the end of all processes")
        before = complete_trials(tmp_path / "run")
        result = search(tiny(tmp_path, budget=6, train=config.train))
        assert before <= set(result.trials["trial"])
        counted = result.trials[result.trials["counts"]]
        assert len(counted) == 6
        assert counted["key"].is_unique
