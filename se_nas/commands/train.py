"""Train a chosen placement for good: one long training, the test set once at its end, a folder to export from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from se_nas.commands.results import conclude
from se_nas.core.config import SearchConfig, TrainConfig
from se_nas.core.errors import RunError
from se_nas.core.files import write_atomically
from se_nas.core.placement import Placement
from se_nas.core.serialization import to_plain
from se_nas.core.trial import BLAMELESS, Phase, Trial
from se_nas.core.trust import remember
from se_nas.core.words import counted, level_of
from se_nas.data.sealed import open_test
from se_nas.data.store import read_info
from se_nas.engine.driver import Driver
from se_nas.engine.exam import exam_file, examine, read_exam
from se_nas.engine.kept_start import start_of, study_of
from se_nas.engine.opening import changed_parts
from se_nas.engine.patience import SILENT, Patience, wait_for
from se_nas.engine.problem import Problem, prepare
from se_nas.engine.proposer import ATTEMPTS
from se_nas.engine.run_folder import FINAL, RunFolder, clear_errors, differences
from se_nas.engine.study import Study
from se_nas.engine.trusted import names_in
from se_nas.executors.build import open_executor
from se_nas.report.view import View

TEST = "test.json"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training ended with."""

    folder: Path
    trial: Trial
    metric: str
    test: dict[str, float]
    """Every metric on the test set; empty if there is none."""
    openings: int
    """How often the test set was opened by this folder."""
    note: str = ""
    """Why there are no test values."""
    includes_val: bool = False

    @property
    def sentences(self) -> list[str]:
        """What there is to say, a line each."""
        found = self.trial.metrics
        value = level_of(found[self.metric].value, found[self.metric].unit)
        seen = " (of images that it was trained on)" if self.includes_val else ""
        units = {name.replace("val_", "test_", 1): metric.unit for name, metric in found.items()}
        tested = ", ".join(f"{name} {level_of(number, units.get(name, ''))}" for name, number in self.test.items())
        return [
            f"{self.trial.placement.label}: {counted(self.trial.identity.epochs, 'epoch')}, {self.trial.seconds:.1f} s",
            f"validation: {self.metric} {value}{seen}",
            f"test (evaluation {self.openings} in this folder): {tested}" if tested else f"test: {self.note}",
            f"Files: {self.folder} ({TEST}, trials.csv, best/)",
        ]


def train_placement(
    config: TrainConfig, *, on_trial: Callable[[Trial], object] | None = None, view: View | None = None
) -> Trained:
    """Train the network of a placement, or go on with it; then evaluate on the test set, once.

    Training and validation set are as in a search; with ``include_val`` the network is trained on both, and its
    validation values are then those of images that it has seen. ``best/`` in the folder is the trained network.

    Raises
    ------
    SeNasError
        For anything that the user can mend; what was done before is kept.
    """
    run = RunFolder(Path(config.out))
    with run.locked(), view or View(quiet=True) as shown, clear_errors(run.path):
        begun = study_of(config.search(), run, name=FINAL)
        problem = prepare(config.search(), run.path, include_val=config.include_val, init=start_of(begun),
                          stage=shown.stage)  # fmt: skip
        shown.say(*problem.notes)
        placement = problem.space.parse(config.placement)
        study = _study(problem, run, placement)
        job = Job(problem, study, run.owner, placement)
        ended = Driver(problem, run, study, shown, job, on_trial).drive()
        if ended == "interrupted":
            shown.say("interrupted; repeat the command to continue")
            raise KeyboardInterrupt
        shown.stage("writing the report")
        conclude(run, study, ended)
        return _tested(problem, run, job.done(), shown)


class Job:
    """The one training of a placement, handed out until it is complete."""

    phase: Phase = "train"

    def __init__(self, problem: Problem, study: Study, owner: str, placement: Placement) -> None:
        self.problem, self.study, self.owner, self.placement = problem, study, owner, placement

    def begin(self, trials: list[Trial]) -> None:
        """Nothing to prepare."""

    def next(self, trials: list[Trial]) -> Trial | None:
        """The training, marked as running; None once it is there or failed too often."""
        failures = [t for t in trials if t.state == "failed" and t.reason not in BLAMELESS]
        if len(failures) >= ATTEMPTS:
            reason = failures[-1].reason
            hint = "a smaller --lr" if not reason.startswith(SILENT) else "a longer --trial-timeout"
            raise RunError(f"the training failed {len(failures)} times: {reason}", hint=f"try {hint}")
        if any(t.state in ("complete", "running") for t in trials):
            return None
        record = self.problem.trial(
            self.placement, owner=self.owner, role="", attempts=1 + len(failures), phase=self.phase,
            replicate=sum("non-finite" in failure.reason for failure in failures),
        )  # fmt: skip
        return self.study.start(self.study.ask_nothing(), record)

    def retry(self, trial: Trial) -> None:
        """A failed training is handed out again."""

    def nothing_left(self, trained: int) -> str:
        """Why `next` has no more, in words."""
        return "the training is done"

    def done(self) -> Trial:
        """The complete training."""
        return next(t for t in self.study.trials() if t.state == "complete")


def _study(problem: Problem, run: RunFolder, placement: Placement) -> Study:
    facts = {**problem.facts, "placement": placement.key}
    study = Study(run.storage, FINAL, problem.objective, facts)
    if changed := [*changed_parts(study, problem), *differences(study.facts, facts)]:
        raise RunError(
            "this folder holds a training with other settings:\n  " + "\n  ".join(changed[:12]),
            where=str(run.path),
            hint="give another --out, or its own settings",
        )
    config: SearchConfig = replace(problem.config, train=replace(problem.recipe, precision=problem.precision))
    remember(names_in(config))
    run.write_config(config)
    study.optuna.set_user_attr("config", to_plain(config))
    study.optuna.set_user_attr("data", to_plain(problem.data))
    return study


def _tested(problem: Problem, run: RunFolder, trial: Trial, view: View) -> Trained:
    """The metrics on the test set, from the file that they were written to or from the part itself."""
    info, openings, note = read_info(run.path), 0, ""
    if info.kind == "arrays" and info.test == 0:
        note = "the data have no test set"
    elif problem.loop is not None and problem.loop.test is None:
        note = f"the trainer {problem.loop.why_no_test}"
    else:
        openings = open_test(run.path, purpose=f"train {trial.placement.key} {trial.identity.epochs} epochs")
        if not exam_file(run.path, trial.number).is_file():
            view.say(f"test set evaluated (evaluation {openings} in this folder)")
            view.stage("evaluating the network on the test set")
            executor = open_executor(problem.config.executor, problem.devices)
            try:
                future = executor.submit(examine, problem.request(trial, run.path), lambda *_: "continue")
                patience = Patience(problem.config, [trial])
                wait_for(executor, [future], math.inf if patience.off else patience.limit, "its exam")
                done = future.result()
            finally:
                executor.shutdown()
            note = "" if done.state == "complete" else f"the test set cannot be used: {done.reason}"
    test: Mapping[str, Any] = {} if note else read_exam(exam_file(run.path, trial.number))[1]
    metrics = {name.replace("val_", "test_", 1): value for name, value in test.items() if "train" not in name}
    content = {"trial": trial.number, "openings": openings, "images": info.test, "metrics": metrics, "note": note}
    write_atomically(run.path / TEST, json.dumps(content, indent=2).encode() + b"\n")
    return Trained(
        folder=run.path,
        trial=trial,
        metric=problem.objective.metric,
        test=metrics,
        openings=openings,
        note=note,
        includes_val=info.includes_val,
    )
