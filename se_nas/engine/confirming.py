"""What a confirm trains and examines: networks with fresh seeds, as trials of a second study in the run's storage."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from se_nas.analysis.confirmation import Confirmed, Estimate
from se_nas.analysis.judge import estimate
from se_nas.core.errors import RunError
from se_nas.core.files import weights_file
from se_nas.core.trial import Result, Trial
from se_nas.data.base import PartName
from se_nas.engine.driver import Driver, outcome_of
from se_nas.engine.exam import exam_content, exam_file, examine, read_exam
from se_nas.engine.finalists import Finalist, Plan
from se_nas.engine.patience import Patience, wait_for
from se_nas.engine.problem import Problem
from se_nas.engine.run_folder import RunFolder, differences
from se_nas.engine.study import Study
from se_nas.executors.build import open_executor
from se_nas.report.view import View
from se_nas.samplers.features import Array

CONFIRM = "confirm"
"""Name of the study, in the storage of the run."""

Job = tuple[Finalist, int]
"""A network and a seed to train it with."""


def without_schedule(facts: dict[str, Any]) -> dict[str, Any]:
    """What all trials of a confirm's study share: they may have other schedules, and the search a wider space."""
    train = {name: value for name, value in facts["train"].items() if name != "epochs"}
    return {**{name: value for name, value in facts.items() if name != "space"}, "train": train}


@dataclass(frozen=True, kw_only=True)
class Confirming:
    """A confirm at work: trains what is missing, and has trained networks examined once for each part."""

    problem: Problem
    run: RunFolder
    study: Study
    networks: tuple[Finalist, ...]
    view: View

    @classmethod
    def of(cls, problem: Problem, run: RunFolder, networks: Sequence[Finalist], view: View) -> Confirming:
        """With the study, which may have trainings of before; RunError if they are of something else."""
        facts = without_schedule(problem.facts)
        study = Study(problem.config.storage or run.storage, CONFIRM, problem.objective, facts)
        if changed := differences(study.facts, facts):
            raise RunError("an earlier confirm used other settings:\n  " + "\n  ".join(changed[:12]),
                           where=str(run.path))  # fmt: skip
        return cls(problem=problem, run=run, study=study, networks=tuple(networks), view=view)

    @property
    def sign(self) -> float:
        """1 where a larger metric is better, else -1."""
        return -1.0 if self.problem.objective.direction == "minimize" else 1.0

    def missing(self, jobs: Sequence[Job]) -> int:
        """How many of these trainings are not there yet."""
        return len(self._plan(jobs).missing())

    def minutes(self, jobs: Sequence[Job]) -> float:
        """What the missing ones take, by the times of the search; 0 where they are not known."""
        times = [t.trial.seconds / t.trial.identity.epochs for t in self.networks if t.trial is not None]
        each = self.problem.recipe.epochs * float(np.mean(times)) if times else 0.0
        return self.missing(jobs) * each / len(self.problem.devices) / 60

    def train(self, jobs: Sequence[Job], *, beyond: int = 0) -> list[Trial]:
        """Train what is missing; all complete trainings of these jobs. KeyboardInterrupt if the user ends it.

        So many trainings may follow `beyond` these.
        """
        plan = self._plan(jobs)
        if missing := len(plan.missing()):
            spent = sum(t.counts for t in self.study.trials())
            config = replace(self.problem.config, budget=spent + missing, max_time=None, early_stopping=False)
            paid = replace(self.problem, config=config)
            if Driver(paid, self.run, self.study, self.view, plan, beyond=beyond).drive() == "interrupted":
                self.view.say("interrupted; repeat the command to continue")
                raise KeyboardInterrupt
        wanted = {(network.placement.key, seed) for network, seed in jobs}
        return [t for t in plan.trials() if t.state == "complete" and (t.placement.key, t.identity.seed) in wanted]

    def _plan(self, jobs: Sequence[Job]) -> Plan:
        return Plan(self.problem, self.study, self.run.owner, jobs)

    def waiting(self, trials: Sequence[Trial], part: PartName) -> list[Trial]:
        """Those that are not examined yet; RunError if that is not possible any more."""
        waiting = [t for t in trials if not exam_file(self.run.path, t.number, part).is_file()]
        if gone := [t for t in waiting if not weights_file(self.run.path, t.number, "confirm").is_file()]:
            raise RunError(
                f"{len(gone)} trained networks cannot be examined: their weights are gone (confirm-{gone[0].number})",
                where=str(self.run.path / "weights"),
                hint="bring the files back, or confirm with --epochs one more: that trains again",
            )
        return waiting

    def examine(self, trials: Sequence[Trial], part: PartName) -> None:
        """Have trained networks examined on a part, each once."""
        if not (waiting := self.waiting(trials, part)):
            return
        executor = open_executor(self.problem.config.executor, self.problem.devices)
        work, done = functools.partial(examine, part=part), False
        try:
            requests = [self.problem.request(trial, self.run.path) for trial in waiting]
            where = "test set" if part == "test" else "validation set"
            self.view.stage(f"evaluating {len(requests)} trained networks on the {where}")
            futures: list[Future[Result]] = [executor.submit(work, r, lambda *_: "continue") for r in requests]
            patience = Patience(self.problem.config, self.study.trials())
            wait_for(executor, futures, math.inf if patience.off else len(futures) * patience.limit, "its exam")
            done = True
        finally:
            executor.shutdown(wait=done)
        results = [(trial, outcome_of(future, trial)) for trial, future in zip(waiting, futures, strict=True)]
        failed = [(trial, result.reason) for trial, result in results if result.state == "failed"]
        if failed:
            trial, reason = failed[0]
            raise RunError(
                f"{len(failed)} networks could not be examined; {trial.placement.label}: {reason}",
                where=str(self.run.path),
                hint="repeat the command to continue where it stopped",
            )

    def scores(self, trials: Sequence[Trial], part: PartName) -> dict[str, dict[int, Array]]:
        """Key -> seed -> scores on a part on which the networks were examined.

        Of a trainer of the user's own the validation set has one score, the value of the training.
        """
        found: dict[str, dict[int, Array]] = {}
        for t in trials:
            one = np.array([t.metrics[self.problem.objective.metric].value])
            own = part == "val" and self.problem.loop is not None
            scores = one if own else read_exam(exam_file(self.run.path, t.number, part))[0]
            found.setdefault(t.placement.key, {})[t.identity.seed] = scores
        check_contents([exam_file(self.run.path, t.number, part) for t in trials])
        return found

    def confirmed(self, trials: Sequence[Trial], planned: Mapping[str, int], *, same: bool) -> list[Confirmed]:
        """What is known of the networks before they are compared.

        Parameters
        ----------
        planned:
            With how many seeds each was to be trained, by its key.
        same:
            Whether the schedule is that of the search, so that what it promised can be compared.
        """
        found = []
        for network in self.networks:
            own = {t.identity.seed: t for t in trials if t.placement.key == network.placement.key}
            if own:
                most, mine = max(planned.values()), planned[network.placement.key]
                one = self._confirmed(network, own, same=same)
                stopped = mine if mine < most else None
                found.append(replace(one, failed=max(mine - len(own), 0), stopped_after=stopped))
        return found

    def _confirmed(self, network: Finalist, own: dict[int, Trial], *, same: bool) -> Confirmed:
        metric = self.problem.objective.metric
        validation: Estimate = estimate({seed: t.metrics[metric].value for seed, t in own.items()})
        observed = None if network.trial is None else network.trial.metrics[metric].value

        def optimism(promise: float | None) -> float | None:
            return None if promise is None or not same else self.sign * (promise - validation.mean)

        trial: Any = network.trial or next(iter(own.values()))
        return Confirmed(
            key=network.placement.key,
            label=network.placement.label,
            placement=network.placement,
            role=network.role,
            trial=None if network.trial is None else network.trial.number,
            trials={str(seed): t.number for seed, t in own.items()},
            costs=trial.costs,
            validation=validation,
            promised=network.promised,
            observed=observed,
            optimism=optimism(network.promised),
            observed_optimism=optimism(observed),
        )


def check_contents(files: Sequence[Path]) -> None:
    """RunError if networks were examined on batches that are not equal."""
    contents = {exam_content(file) for file in files if file.is_file()} - {""}
    if len(contents) > 1:
        raise RunError(
            f"the networks were not examined on the same images and labels: the data module gave "
            f"{len(contents)} versions of them",
            where=str(files[0].parent),
            hint="its loaders must give the same batches each time; then remove that folder and confirm again: "
            "the networks are examined anew, not trained",
        )
