"""The one process that asks and tells: it keeps the executor's slots busy and writes every trial to the study."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace

from se_nas.analysis.findings import Findings
from se_nas.analysis.summary import summarize
from se_nas.core.errors import RunError, WorkerLostError, reason_of
from se_nas.core.protocols import Executor
from se_nas.core.serialization import from_json
from se_nas.core.trial import BLAMELESS, INTERRUPTED, LOST, OUT_OF_TIME, Epoch, Result, Trial, Verdict
from se_nas.core.words import counted, duration
from se_nas.engine.early_stopping import EarlyStopping
from se_nas.engine.interrupts import interruptible
from se_nas.engine.leases import Leases
from se_nas.engine.patience import Patience, end
from se_nas.engine.problem import Problem, unit_of
from se_nas.engine.proposer import Proposals
from se_nas.engine.run_folder import RunFolder
from se_nas.engine.study import Study
from se_nas.executors.build import open_executor
from se_nas.report.front_table import front_display
from se_nas.report.progress import Status
from se_nas.report.view import View
from se_nas.training.checkpoint import FOLDER as CHECKPOINTS
from se_nas.training.evaluate import evaluate, result_file
from se_nas.training.loggers import begin_logs, log_names
from se_nas.training.provenance import commit

KEPT_BYTES = 2**30
"""Weights of all trials are kept while they take less than this together (keep_weights: auto)."""

DROP_EVERY = 0.02
"""Share by which the trials grow until weights are dropped again: the front of many trials takes time."""

WAIT = 1.0
"""Seconds between looks at a study whose last trainings are another driver's."""

HOPELESS = 6
"""So many failed trainings without a single success end a search."""


class Driver:
    """Asks, submits, tells: the one process that writes to the study. What is trained, the proposer says."""

    def __init__(
        self, problem: Problem, run: RunFolder, study: Study, view: View, proposer: Proposals,
        on_trial: Callable[[Trial], object] | None = None, *, beyond: int = 0,
    ) -> None:  # fmt: skip
        self.beyond = beyond
        """Trainings that may follow when this budget is spent."""
        self.problem, self.run, self.study, self.view, self.proposer = problem, run, study, view, proposer
        self.on_trial = on_trial
        config = problem.config
        self.running: dict[Future[Result], Trial] = {}
        self._drawn = -1
        """Ended trials of the front that is shown."""
        searches = config.early_stopping and proposer.phase == "search"
        self.stopping = EarlyStopping(problem.objective, problem.space) if searches else None
        self.stopped: dict[int, str] = {}
        self.ending = ""
        self.patience = Patience(config)
        self._renewed = time.monotonic()
        self._drop_at = 0.0
        """Number of trials at which weights are dropped again."""
        self._leases = Leases()
        self._said = self._grace_said = self._waiting_said = False

    def drive(self, first: Callable[[Executor], object] | None = None) -> str:
        """Train until the budget is spent or something else ends the search; returns why, in words.

        `first` is called with the executor before anything is trained.
        """
        with self.study.turn:
            self._recover()
            trials = self.study.trials()
            if self.stopping is not None:
                self.stopping.learn(trials)
            self.proposer.begin(trials)
        self.patience.learn(trials)
        if _spent(trials) >= self.problem.config.budget:
            return self._why(trials)
        begin_logs(log_names(self.problem.config.logs), self.run.path)
        number = len(self.problem.devices)
        self.view.stage(f"starting {number} worker{'s' * (number > 1)}")
        executor = open_executor(self.problem.config.executor, self.problem.devices)
        if self.problem.config.trial_timeout != "auto" and not hasattr(executor, "end"):
            name = self.problem.config.executor.target
            self.view.say(f"the executor {name!r} cannot end a training: trial_timeout has no effect")
        clean = False
        try:
            with interruptible(self._interrupt), contextlib.suppress(KeyboardInterrupt):
                if first is not None:
                    first(executor)
                while self._fill(executor) or self.running:
                    self._collect()
                    self._end_what_hangs(executor)
                clean = True
        finally:
            executor.shutdown(wait=clean)
            self.view.over()
        if clean:
            shutil.rmtree(self.run.path / CHECKPOINTS, ignore_errors=True)  # of trials that were given up
            self._drop_weights()
            self._clear_results()
        if clean and self.proposer.phase == "search":
            self._measure_front()
        self.study.check_there()
        return self._why(self.study.trials())

    def _measure_front(self) -> None:
        """Measure the front and the reference points, now that no training runs beside it."""
        if self.problem.costs.measurer is None:
            return
        found = self.study.findings()
        front = set(found.front.get("trial", []))
        wanted = [t.placement for t in found.trials if t.number in front or (t.role and t.state == "complete")]
        self.view.stage(f"measuring {counted(len(wanted), 'network')}")
        if self.problem.costs.fits:
            self.view.say(f"measuring latency of the front and the reference points, {counted(len(wanted), 'network')}")
        self.study.keep_measured(self.problem.costs.settle(wanted))

    def _fill(self, executor: Executor) -> bool:
        """Submit trials while slots are free and the budget lasts; whether another call may submit more."""
        while len(self.running) < executor.slots:
            if self.patience.time_over:
                self.ending = self.ending or f"the time of {self.problem.config.max_time} is over"
            if self.ending:
                return False
            with self.study.turn:
                self.study.check_there()
                trials = self.study.trials()
                spent, others = _spent(trials), len(self._others(trials))
                if spent >= self.problem.config.budget:
                    return False
                over = spent + others + len(self.running) >= self.problem.config.budget
                trial = None if over else self.proposer.next(trials)
            if trial is None:
                return others > 0 or (not over and bool(self.running))  # what others train may come back to us
            self.view.begun(trial, self.problem.objective.metric, unit_of(self.problem, trials))
            self._show(trials)
            future = executor.submit(evaluate, self.problem.request(trial, self.run.path), self._reporter(trial))
            self.running[future] = trial
            self.patience.sign(trial.number)
        return True

    def _collect(self) -> None:
        """Wait a moment for results; tell what is there."""
        if not self.running:
            self._say_waiting()
            time.sleep(WAIT)
        self.study.check_there()
        done, _ = wait(self.running, timeout=0.25, return_when=FIRST_COMPLETED)
        for future in done:
            trial = self.running.pop(future)
            self._tell(trial, outcome_of(future, trial))
        if self.ending == "interrupted" and not self._said:
            self._said = True
            self.view.say("finishing what is running; press Ctrl-C again to stop at once")
            self._show(self.study.trials())
        if time.monotonic() - self._renewed > self.study.lease / 3:
            self._renewed = time.monotonic()
            for trial in self.running.values():
                self.study.renew(trial)
            self._take_over()
            self._show(self.study.trials())  # with what other drivers have done

    def _end_what_hangs(self, executor: Executor) -> None:
        """End trainings without a sign of life, and at the end of max_time all that do not end by themselves."""
        silent = self.patience.silent([trial.number for trial in self.running.values()])
        for future, trial in self.running.items():
            reason = OUT_OF_TIME if self.patience.grace_over else silent.get(trial.number)
            if reason is not None and not future.done():
                end(executor, future, reason)  # one that still waits for a worker has its time before it
                self.patience.sign(trial.number)
        if self.patience.time_over and self.running and not self._grace_said:
            self._grace_said = True
            self.view.say(
                f"the time of {self.problem.config.max_time} is over: what runs is ended in "
                f"{duration(self.patience.grace)}, and goes on with the same command"
                if hasattr(executor, "end")
                else f"the executor {self.problem.config.executor.target!r} cannot end what runs"
            )

    def _learn_patience(self, record: Trial) -> None:
        """Say the limit when it is known first."""
        before = self.patience.limit
        self.patience.learn([record])
        if self.patience.limit < before and not self.patience.off:
            self.view.say(
                f"time limit: from now on a training is ended if it gives no sign of life for "
                f"{duration(self.patience.limit)} ({self.patience.rule})"
            )

    def _others(self, trials: list[Trial]) -> list[Trial]:
        """Running trials of other drivers."""
        return [t for t in trials if t.state == "running" and t.owner != self.run.owner]

    def _take_over(self) -> None:
        """Have trials tried again whose driver gave no sign of life for a lease, by our clock."""
        for trial in self._leases.given_up(self._others(self.study.trials()), self.study.lease):
            self._orphan(trial)

    def _say_waiting(self) -> None:
        """Say once what is waited for."""
        if not self._waiting_said and (others := self._others(self.study.trials())):
            self._waiting_said = True
            self.view.say(f"waiting for trainings of another driver: {len(others)}, to be begun again if it gives no "
                          f"sign of life for {duration(self.study.lease)}")  # fmt: skip

    def _tell(self, trial: Trial, result: Result) -> None:
        record = replace(
            trial,
            state=result.state,
            reason=self.stopped.get(trial.number, result.reason),
            counts=result.state in ("complete", "stopped"),
            metrics=result.metrics,
            curve=result.curve,
            seconds=result.seconds,
            device=result.device,
            versions=result.versions,
            commit=result.commit or commit(),  # a worker elsewhere runs in no checkout
            notes=result.notes,
            graph=result.graph,
        )
        if not self.study.finish(record):
            return
        result_file(self.run.path, trial.number, result.attempt, self.proposer.phase).unlink(missing_ok=True)
        if record.state == "failed":
            self.proposer.retry(record)
        trials = self.study.trials()
        if record.state == "failed":
            self._give_up_if_hopeless(record, trials)
        if len(trials) >= self._drop_at:
            self._drop_weights()
        self._learn_patience(record)
        if self.stopping is not None and record.counts:
            self.stopping.learn(trials)
        self.view.finished(record, self._status(trials))
        for note in record.notes:
            self.view.say(f"trial {record.number}: {note}")
        if self.on_trial is not None and self.on_trial(record) == "stop":
            self.ending = self.ending or f"stopped by on_trial after trial {record.number}"

    def _give_up_if_hopeless(self, last: Trial, trials: list[Trial]) -> None:
        failures = [t for t in trials if t.state == "failed" and t.reason not in BLAMELESS]
        if len(failures) >= HOPELESS and not any(t.counts for t in trials):
            raise RunError(
                f"the first {len(failures)} trainings all failed; the last one: {last.reason}",
                where=str(self.run.path),
                hint="try one placement with --budget 1 --executor inline, or another recipe such as --lr 0.01",
            )

    def _recover(self) -> None:
        """Take in what a driver that died left behind: results on disk are told, orphans are tried again."""
        for trial in self.study.trials():
            if trial.state != "running":
                continue
            file = result_file(self.run.path, trial.number, trial.attempts, self.proposer.phase)
            if file.is_file():
                self._tell(trial, from_json(file.read_bytes(), Result, where=str(file)))
            elif self.run.owned_by_us(trial.owner):
                self._orphan(trial)
        self._clear_results()
        self.study.fail_unrecorded()
        self._take_over()  # nothing yet: from now on it is seen whether they are renewed

    def _clear_results(self) -> None:
        """Remove results of trials that have ended: of a driver that was killed, or of a worker that outlived it."""
        for trial in self.study.trials():
            file = result_file(self.run.path, trial.number, trial.attempts, self.proposer.phase)
            if trial.state != "running" and file.is_file():
                file.unlink(missing_ok=True)

    def _orphan(self, trial: Trial) -> None:
        with self.study.turn:
            record = self.study.kept(trial.number) or replace(trial, state="failed", reason=INTERRUPTED)
            if self.study.finish(record) and record.state == "failed":
                self.proposer.retry(record)

    def _reporter(self, trial: Trial) -> Callable[[int, Mapping[str, float]], Verdict]:
        """What to answer after each epoch of a trial; called in a thread of the executor. Epoch 0: a sign of life."""
        curve: list[Epoch] = []

        def report(epoch: int, metrics: Mapping[str, float]) -> Verdict:
            self.patience.sign(trial.number)
            self.view.told(trial.number, epoch, metrics)
            if epoch == 0:
                return "continue"
            curve.append(Epoch(epoch=epoch, metrics=dict(metrics)))
            judgement = None if self.stopping is None else self.stopping(trial, curve)
            if judgement is None or not judgement.stop or epoch >= trial.identity.epochs:
                return "continue"
            self.stopped[trial.number] = f"stopped after epoch {epoch}: {judgement.reason}"
            return "stop"

        return report

    def _drop_weights(self) -> None:
        """Keep the weights of both fronts and of the reference points only, where not all may be kept."""
        folder = self.run.path / "weights"
        keep = self.problem.config.keep_weights
        if keep == "all" or not folder.is_dir() or self.proposer.phase != "search":
            return
        if keep == "auto" and sum(file.stat().st_size for file in folder.glob("*.safetensors")) < KEPT_BYTES:
            return
        found = self.study.findings()
        self._drop_at = len(found.trials) * (1 + DROP_EVERY)
        kept = {*found.front.get("trial", []), *(t.number for t in found.trials if t.role)}
        finished = {t.number for t in found.trials if t.state != "running"}
        for number in finished - kept:
            (folder / f"{number}.safetensors").unlink(missing_ok=True)

    def _why(self, trials: list[Trial]) -> str:
        if self.ending:
            return self.ending
        spent = _spent(trials)
        if spent >= self.problem.config.budget:
            return f"the budget of {counted(self.problem.config.budget, 'training')} is spent"
        return self.proposer.nothing_left(spent)

    def _interrupt(self, again: bool) -> None:
        self.ending = "interrupted"  # said by the main loop: a signal may come while something is being printed
        if again:
            raise KeyboardInterrupt

    def _status(self, trials: list[Trial]) -> Status:
        return Status(
            trials=[t for t in trials if t.state != "running"],
            budget=self.problem.config.budget,
            slots=len(self.problem.devices),
            objective=self.problem.objective,
            ending=self.ending,
            beyond=self.beyond,
            allowed=lambda: self.patience.seconds_left,
        )

    def _show(self, trials: list[Trial]) -> None:
        """How far the search is; with the front where that is drawn, which takes time, and only when it may be new."""
        status, front = self._status(trials), None
        if self.view.live and len(status.trials) > self._drawn:
            self._drawn = len(status.trials)
            found = Findings(trials=status.trials, objective=status.objective)
            summary = summarize(found, folder="", budget=status.budget, ended="")
            front = front_display(summary, title="front so far (single runs)") if summary.front else None
        self.view.update(status, front)


def _spent(trials: list[Trial]) -> int:
    return sum(trial.counts for trial in trials)


def outcome_of(future: Future[Result], trial: Trial) -> Result:
    """The result of an evaluation; a failed one if its worker died. Errors of the machine are raised."""
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, OSError | RunError):
        raise error
    if isinstance(error, WorkerLostError):
        return Result(trial=trial.number, attempt=trial.attempts, state="failed", reason=LOST)
    return Result(trial=trial.number, attempt=trial.attempts, state="failed", reason=reason_of(error))
