"""Confirm: retrain the finalists with fresh seeds, open the sealed test part once, and say what is true.

::

    run -> finalists and reference points -> train each with each seed   (finalists, driver)
        -> test part, once -> scores image by image                      (exam)
        -> differences, with their noise -> verdict                      (judgement, verdict)

Trainings are trials of a second study in the run's storage; what is there already is not trained again. Test values are
in files of their own and reach no study, so no proposal and no posterior ever sees them.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from se_nas.analysis.confirmation import Confirmation, Confirmed, Estimate, Verdict, write_confirmed
from se_nas.analysis.judge import estimate, judge
from se_nas.analysis.margin import margin_of
from se_nas.analysis.verdict import final_verdict
from se_nas.commands.results import conclude, existing_run, stored
from se_nas.core.config import SearchConfig
from se_nas.core.errors import ConfigError, DataError, RunError
from se_nas.core.files import weights_file
from se_nas.core.overrides import target_of
from se_nas.core.serialization import checksum
from se_nas.core.trial import Result, Target, Trial
from se_nas.data.store import open_test
from se_nas.engine.driver import Driver
from se_nas.engine.exam import exam_file, examine, read_exam
from se_nas.engine.finalists import TOP, Finalist, Plan, choose_finalists, fresh_seeds
from se_nas.engine.problem import Problem, prepare
from se_nas.engine.run_folder import RunFolder, clear_errors, differences
from se_nas.engine.study import Study
from se_nas.executors.build import open_executor
from se_nas.report.terminal import View
from se_nas.training.provenance import commit, versions

CONFIRM = "confirm"
"""Name of the study, in the storage of the run."""


def confirm(
    run: str | Path,
    *,
    top: int = TOP,
    seeds: int = 5,
    margin: float | None = None,
    epochs: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    executor: str | Target | None = None,
    view: View | None = None,
) -> Confirmation:
    """Confirm the finalists of a search, or go on with a confirm that was interrupted.

    Parameters
    ----------
    run:
        Run folder.
    top:
        Finalists: so many members of the front, best first. Both reference points are always confirmed.
    seeds:
        Fresh seeds, the same for all networks. With 1 there is no estimate of the noise and no claim.
    margin:
        The smallest gain that is worth its cost: in points (hundredths) where the metric is a share, else in the
        metric's own unit; default that of the search (`se_nas.analysis.margin`). "Not worth it" is only said where such
        a gain is excluded.
    epochs:
        Of the full schedule; default that of the search.
    workers, device, executor:
        As for the search; default as it was made.

    Raises
    ------
    SeNasError
        For anything that the user can mend; what was finished before is kept.
    """
    if top < 1:
        raise ConfigError(f"top is {top}", allowed=["a whole number from 1"], hint="one finalist at least is confirmed")
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}", allowed=["a whole number from 1"], hint="5 is a good number")
    if margin is not None and not margin > 0:
        raise ConfigError(f"margin is {margin}", allowed=["a number above 0"], hint="0.3 is 0.3 points of accuracy")
    started = time.monotonic()
    folder, _ = existing_run(Path(run))
    with folder.locked(), view or View(quiet=True) as shown, clear_errors(folder.path):
        _, study = existing_run(folder.path)
        config = _config(study, folder, epochs=epochs, workers=workers, device=device, executor=executor)
        problem = _problem(study, folder, config)
        if (loop := problem.loop) is not None and loop.test is None:
            raise RunError(
                f"trainer {loop.target.target!r} {loop.why_no_test}: there is nothing to confirm on but the validation "
                "data, by which the finalists were chosen",
                hint="write test(network), which returns the metrics on other images, beside it and confirm again",
            )
        # What an earlier confirm found must change neither the finalists nor what the search promised of them.
        alone = replace(study.findings(), trials=[replace(trial, repeats=()) for trial in study.trials()])
        networks = choose_finalists(alone, study.space, top)
        chosen = fresh_seeds(problem.config.seed, seeds)
        trials = _train(problem, folder, networks, chosen, shown)
        if problem.recipe.epochs == study.facts["train"]["epochs"]:
            _feed(study, trials)
        openings = _examine(problem, folder, trials, shown)
        result = _assembled(problem, study, folder, networks, chosen, trials, openings)
        result = _judged(result, config.margin if margin is None else margin, run=str(run))
        result = replace(result, seconds=round(time.monotonic() - started, 1))
        write_confirmed(folder.path, result)
        conclude(folder, study, "confirmed")
        return result


def _config(
    study: Study,
    run: RunFolder,
    *,
    epochs: int | None,
    workers: int | None,
    device: str | None,
    executor: str | Target | None,
) -> SearchConfig:
    """The configuration of the search with another schedule, and where it is done."""
    config = stored(study, "config", SearchConfig)
    return replace(
        config,
        out=str(run.path),
        workers=config.workers if workers is None else workers,
        device=config.device if device is None else device,
        executor=config.executor if executor is None else target_of("executor", executor),
        train=config.train if epochs is None else replace(config.train, epochs=epochs),
    )


def _problem(study: Study, run: RunFolder, config: SearchConfig) -> Problem:
    """The problem of the search again; RunError if anything but the schedule has changed."""
    problem = prepare(config, run.path)
    facts = {**_without_schedule(problem.facts), "space": problem.facts["space"]}
    if changed := differences({**_without_schedule(study.facts), "space": study.facts["space"]}, facts):
        raise RunError(
            "what was searched is not there any more as it was:\n  " + "\n  ".join(changed[:12]),
            where=str(run.path),
            hint="bring data, backbone and code back as they were, or search again with another --out",
        )
    return problem


def _train(
    problem: Problem, run: RunFolder, networks: Sequence[Finalist], seeds: Sequence[int], view: View
) -> list[Trial]:
    """Train what is missing; the complete trainings of these networks and seeds."""
    facts = _without_schedule(problem.facts)
    study = Study(problem.config.storage or run.storage, CONFIRM, problem.objective, facts)
    if changed := differences(study.facts, facts):
        raise RunError("an earlier confirm was of something else:\n  " + "\n  ".join(changed[:12]), where=str(run.path))
    plan = Plan(problem, study, run.owner, networks, seeds)
    missing = len(plan.missing())
    total = len(networks) * len(seeds)
    times = [t.trial.seconds / t.trial.identity.epochs for t in networks if t.trial is not None]
    left = missing * problem.recipe.epochs * float(np.mean(times)) / len(problem.devices) if times else 0.0
    view.say(
        f"{len(networks)} networks ({', '.join(n.placement.label for n in networks)}) x {len(seeds)} fresh seeds, "
        f"{problem.recipe.epochs} epochs: {total} trainings, {missing} to do, about {left / 60:.1f} min; "
        "then the test part"
    )
    spent = sum(t.counts for t in study.trials())
    paid = replace(
        problem, config=replace(problem.config, budget=max(1, spent + missing), max_time=None, early_stopping=False)
    )
    ended = Driver(paid, run, study, view, plan).drive() if missing else ""
    if ended == "interrupted":
        view.say("interrupted; the same command goes on where this one stopped")
        raise KeyboardInterrupt
    wanted = {(network.placement.key, seed) for network in networks for seed in seeds}
    return [t for t in plan.trials() if t.state == "complete" and (t.placement.key, t.identity.seed) in wanted]


def _without_schedule(facts: dict[str, Any]) -> dict[str, Any]:
    """What all trials of a confirm's study share: they may have other schedules, and the search a wider space."""
    train = {name: value for name, value in facts["train"].items() if name != "epochs"}
    return {**{name: value for name, value in facts.items() if name != "space"}, "train": train}


def _feed(study: Study, trials: Sequence[Trial]) -> None:
    """Let the posterior of the search know the confirmed validation values."""
    values: dict[str, list[float]] = {}
    for trial in trials:
        values.setdefault(trial.placement.key, []).append(trial.metrics[study.objective.metric].value)
    study.keep_repeats(values)


def _examine(problem: Problem, run: RunFolder, trials: Sequence[Trial], view: View) -> int:
    """Open the test part and have each trained network's scores in a file; how often the part was opened so far."""
    purpose = "confirm " + checksum(sorted([t.identity.key, t.identity.seed, t.identity.epochs] for t in trials))
    openings = open_test(run.path, purpose=purpose)
    waiting = [t for t in trials if not exam_file(run.path, t.number).is_file()]
    if not waiting:
        return openings
    if gone := [t for t in waiting if not weights_file(run.path, t.number, "confirm").is_file()]:
        raise RunError(
            f"{len(gone)} trained networks cannot be examined: their weights are gone (confirm-{gone[0].number})",
            where=str(run.path / "weights"),
            hint="bring the files back, or confirm with --epochs one more: that trains again",
        )
    view.say(f"test part opened (opening {openings} of this run): {len(waiting)} trained networks are examined")
    executor = open_executor(problem.config.executor, problem.devices)
    done = False
    try:
        requests = [problem.request(trial, run.path) for trial in waiting]
        futures: list[Future[Result]] = [executor.submit(examine, r, lambda *_: "continue") for r in requests]
        wait(futures)
        done = True
    finally:
        executor.shutdown(wait=done)
    failed = [(t, f.result().reason) for t, f in zip(waiting, futures, strict=True) if f.result().state == "failed"]
    if failed:
        trial, reason = failed[0]
        raise RunError(
            f"{len(failed)} networks could not be examined; {trial.placement.label}: {reason}",
            where=str(run.path),
            hint="the same command goes on where this one stopped",
        )
    return openings


def _assembled(
    problem: Problem,
    study: Study,
    run: RunFolder,
    networks: Sequence[Finalist],
    seeds: Sequence[int],
    trials: Sequence[Trial],
    openings: int,
) -> Confirmation:
    objective, same = problem.objective, problem.recipe.epochs == study.facts["train"]["epochs"]
    skeletons, scores = [], {}
    for network in networks:
        own = {t.identity.seed: t for t in trials if t.placement.key == network.placement.key}
        if not own:
            continue
        scores[network.placement.key] = {seed: read_exam(exam_file(run.path, t.number))[0] for seed, t in own.items()}
        skeletons.append(_skeleton(network, own, objective.metric, len(seeds), same=same, sign=_sign(problem)))
    _check_sizes(problem, scores, run)
    judged = judge(skeletons, scores, objective.direction)
    units = {t.metrics[objective.metric].unit for t in trials}
    first = next(iter(trials), None)
    return Confirmation(
        metric=objective.metric,
        direction=objective.direction,
        unit=units.pop() if len(units) == 1 else "",
        cost=objective.cost,
        epochs=problem.recipe.epochs,
        search_epochs=study.facts["train"]["epochs"],
        seeds=tuple(seeds),
        family=judged.family,
        test_images=_number_of_images(problem, scores),
        openings=openings,
        winner=judged.winner,
        seed_seconds=sum(t.seconds for t in trials) / max(1, len(seeds)) / len(problem.devices),
        noise=judged.noise,
        networks=tuple(sorted(judged.networks, key=lambda n: n.costs[objective.cost].value)),
        verdict=Verdict(phase="confirm", claim="unknown"),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["se-nas", *sys.argv[1:]]) if Path(sys.argv[0]).name.startswith("se-nas") else "",
        device="" if first is None else first.device,
        versions=versions(),
        commit=commit(),
    )


def _judged(result: Confirmation, margin: float | None, *, run: str) -> Confirmation:
    """With the margin in the metric's unit, and the verdict."""
    base = result.of_role("baseline")
    mean = None if base is None or base.test is None else base.test.mean
    result = replace(result, margin=margin_of(margin, unit=result.unit, baseline=mean))
    return replace(result, verdict=final_verdict(result, run=run))


def _number_of_images(problem: Problem, scores: Mapping[str, Mapping[int, np.ndarray]]) -> int:
    """Images of the test part; of a trainer's own, as many as its test gives scores of, else 0."""
    number = problem.data.test or max((len(v) for s in scores.values() for v in s.values()), default=0)
    loop = problem.loop if problem.data.kind == "own" else None
    return 0 if loop is not None and (number == 1 or loop.leaves_out) else number


def _check_sizes(problem: Problem, scores: Mapping[str, Mapping[int, np.ndarray]], run: RunFolder) -> None:
    """RunError if networks have different numbers of scores: they are not of one test part."""
    sizes = Counter(len(values) for by_seed in scores.values() for values in by_seed.values())
    if problem.loop is None and 1 in sizes:  # of a trainer of the user's own it may stand for all images
        raise DataError("the test part has one image: noise cannot be estimated", where=problem.config.data.target)
    if len(sizes) > 1:
        raise RunError(
            f"the networks were not examined on one test part: they have {' and '.join(map(str, sizes))} scores",
            where=str(exam_file(run.path, 0).parent),
            hint="remove that folder and confirm again: the networks are examined anew, not trained",
        )


def _sign(problem: Problem) -> float:
    return -1.0 if problem.objective.direction == "minimize" else 1.0


def _skeleton(
    network: Finalist, own: dict[int, Trial], metric: str, seeds: int, *, same: bool, sign: float
) -> Confirmed:
    """What is known of a network before it is compared with others."""
    validation: Estimate = estimate({seed: t.metrics[metric].value for seed, t in own.items()})
    observed = None if network.trial is None else network.trial.metrics[metric].value

    def optimism(promise: float | None) -> float | None:
        return None if promise is None or not same else sign * (promise - validation.mean)

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
        failed=seeds - len(own),
    )
