"""Confirm: retrain the finalists with fresh seeds, open the sealed test set once, and say what is true.

::

    run -> finalists and reference points                         (finalists)
        -> train with fresh seeds until the answer is settled         (rounds: by the validation set alone)
        -> test set, once -> scores image by image               (exam)
        -> differences, with their noise -> verdict               (judge, verdict)

Trainings are trials of a second study in the run's storage; what is there already is not trained again. Test values are
in files of their own and reach no study, so no proposal and no posterior ever sees them.
"""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from se_nas.analysis.confirmation import Confirmation, Rounds, Sentence, Verdict, write_confirmed
from se_nas.analysis.judge import judge
from se_nas.analysis.margin import margin_of
from se_nas.analysis.trained_enough import Trainings, cautions, training_checks
from se_nas.analysis.verdict import final_verdict
from se_nas.commands.results import conclude, existing_run, stored
from se_nas.core.config import SearchConfig
from se_nas.core.errors import ConfigError, DataError, RunError
from se_nas.core.overrides import target_of
from se_nas.core.ranges import check_whole
from se_nas.core.serialization import checksum
from se_nas.core.storage_url import words_shown
from se_nas.core.trial import Target, Trial
from se_nas.data.base import DataInfo
from se_nas.data.sealed import check_test_part, open_test
from se_nas.engine.confirmed_classes import by_class
from se_nas.engine.confirming import Confirming, without_schedule
from se_nas.engine.exam import exam_file
from se_nas.engine.finalists import TOP, choose_finalists, fresh_seeds, named_finalists
from se_nas.engine.kept_start import start_of
from se_nas.engine.opening import changed_parts
from se_nas.engine.problem import Problem, prepare
from se_nas.engine.rounds import train_fixed, train_in_rounds
from se_nas.engine.run_folder import RunFolder, clear_errors, differences
from se_nas.engine.study import Study
from se_nas.engine.trusted import blocks_of, check_config
from se_nas.report.view import Progress, View
from se_nas.training.provenance import commit, versions

MAX_SEEDS = 20
"""Fresh seeds, at most, if nothing else is asked for."""


def confirm(
    run: str | Path,
    *,
    top: int | None = None,
    finalists: Sequence[str] = (),
    seeds: int | None = None,
    max_seeds: int | None = None,
    margin: float | None = None,
    epochs: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    executor: str | Target | None = None,
    trust: bool = False,
    storage: str | None = None,
    progress: bool | Progress = "auto",
    view: View | None = None,
) -> Confirmation:
    """Confirm the finalists of a search, or continue a confirm that was interrupted.

    Parameters
    ----------
    run:
        Run folder.
    top:
        Finalists: so many members of the front, best first; default 3. The plain backbone and, unless it is over a
        limit on cost, SE everywhere are confirmed with them.
    finalists:
        These placements instead, beside the plain backbone: ``all:16``, ``stage2=8,stage3=4``, ... (`Space.parse`).
        They need not have been trained in the search.
    seeds:
        A fixed number of fresh seeds, the same for all networks. With 1 there is no estimate of the noise and no claim.
        Default: seeds are added in rounds until the answer is settled, for the networks that profit; looking
        after each round is paid for (`se_nas.analysis.looks`).
    max_seeds:
        The most that may be added; default 20.
    margin:
        The smallest gain that is worth its cost: in points (hundredths) where the metric is a share, else in the
        metric's own unit; default that of the search (`se_nas.analysis.margin`). "Not worth it" is only said where such
        a gain is excluded.
    epochs:
        Of the full schedule; default that of the search.
    workers, device, executor:
        As for the search; default as it was made.
    trust:
        Whether code that the folder names is run though you have not given its name on this machine.
    storage:
        The storage that the folder names, if its study is not in the folder itself.
    progress, view:
        As for `se_nas.search`.

    Raises
    ------
    SeNasError
        For anything that the user can fix; finished trainings are kept.
    """
    _check(top, finalists, seeds, max_seeds)
    if margin is not None and not 0 < margin < math.inf:
        raise ConfigError(f"margin is {margin}", allowed=["a number above 0"], hint="0.3 is 0.3 points of accuracy")
    started = time.monotonic()
    folder, _ = existing_run(Path(run), storage=storage)
    with folder.locked(), view or View.of(progress) as shown, clear_errors(folder.path):
        _, study = existing_run(folder.path, storage=storage, read_only=False)
        config = _config(study, folder, epochs=epochs, workers=workers, device=device, executor=executor)
        given = () if executor is None else ("executor",)
        check_config(config, where=folder.path, trust=trust, given=("sampler", *given), blocks=blocks_of(study))
        problem = _problem(study, folder, config, shown)
        if (loop := problem.loop) is not None and loop.test is None:
            raise RunError(
                f"trainer {loop.target.target!r} {loop.why_no_test}: there is nothing to confirm on but the validation "
                "data, by which the finalists were chosen",
                hint="write test(network), which returns the metrics on other images, beside it and confirm again",
            )
        check_test_part(problem.data)
        # What an earlier confirm found must change neither the finalists nor what the search promised of them.
        alone = replace(study.findings(), trials=[replace(trial, repeats=()) for trial in study.trials()])
        shown.stage("choosing the finalists")
        if finalists:
            networks = named_finalists(alone, study.space, finalists)
        else:
            networks = choose_finalists(alone, study.space, TOP if top is None else top)
        problem.costs.settle(network.placement for network in networks)  # at once, but for what is known
        margin = config.margin if margin is None else margin
        confirming = Confirming.of(problem, folder, networks, shown)
        done = _trained(confirming, seeds, MAX_SEEDS if max_seeds is None else max_seeds, margin)
        if problem.recipe.epochs == study.facts["train"]["epochs"]:
            _feed(study, done.trials)
        openings = _tested(confirming, done.trials)
        shown.stage("writing the report")
        result = _assembled(confirming, study, done, openings)
        result = _judged(result, margin, run=str(run))
        result = replace(result, verdict=replace(result.verdict, cautions=_cautions(problem, done.trials, result)))
        result = replace(result, by_class=by_class(folder.path, result, problem.data.classes))
        result = replace(result, seconds=round(time.monotonic() - started, 1))
        write_confirmed(folder.path, result)
        concluded = conclude(folder, study, "confirmed")
        result = replace(result, verdict=concluded.summary.verdict)  # with the reasons, if it did not help
        write_confirmed(folder.path, result)
        return result


def _check(top: int | None, finalists: Sequence[str], seeds: int | None, max_seeds: int | None) -> None:
    check_whole("top", top, hint="at least one finalist is confirmed")
    if top is not None and finalists:
        raise ConfigError(
            "top and finalists are both given",
            hint="--top takes the best of the front, --finalists the placements that you name: give one of them",
        )
    check_whole("seeds", seeds, hint="5 is a good number")
    check_whole("max_seeds", max_seeds, hint=f"{MAX_SEEDS} is usual")
    if seeds is not None and max_seeds is not None:
        raise ConfigError(
            "seeds and max_seeds are both given",
            hint="--seeds fixes their number, --max-seeds stops as soon as the answer is settled: give one of them",
        )


@dataclass(frozen=True, kw_only=True)
class _Done:
    """What was trained: the seeds that might be used, and with how many of them each network was trained, by key."""

    trials: Sequence[Trial]
    seeds: Sequence[int]
    planned: Mapping[str, int]
    rounds: Rounds | None = None


def _trained(confirming: Confirming, seeds: int | None, max_seeds: int, margin: float | None) -> _Done:
    chosen = fresh_seeds(confirming.problem.config.seed, max_seeds if seeds is None else seeds)
    if seeds is None:
        trials, planned, rounds = train_in_rounds(confirming, chosen, margin)
        return _Done(trials=trials, seeds=chosen, planned=planned, rounds=rounds)
    planned = {n.placement.key: seeds for n in confirming.networks}
    return _Done(trials=train_fixed(confirming, chosen), seeds=chosen, planned=planned)


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
        storage=None if study.url == run.storage else study.url,
        workers=config.workers if workers is None else workers,
        device=config.device if device is None else device,
        executor=config.executor if executor is None else target_of("executor", executor),
        train=config.train if epochs is None else replace(config.train, epochs=epochs),
    )


def _problem(study: Study, run: RunFolder, config: SearchConfig, view: View) -> Problem:
    """The problem of the search again; RunError if anything but the schedule has changed."""
    problem = prepare(config, run.path, init=start_of(study), stage=view.stage)
    view.say(*(note for note in problem.data.notes if note not in stored(study, "data", DataInfo).notes))
    facts = {**without_schedule(problem.facts), "space": problem.facts["space"]}
    changed = differences({**without_schedule(study.facts), "space": study.facts["space"]}, facts)
    if changed := [*changed_parts(study, problem), *changed]:
        raise RunError(
            "what was searched has changed since:\n  " + "\n  ".join(changed[:12]),
            where=str(run.path),
            hint="restore data, backbone and code, or search again with another --out",
        )
    return problem


def _feed(study: Study, trials: Sequence[Trial]) -> None:
    """Let the posterior of the search know the confirmed validation values."""
    values: dict[str, list[float]] = {}
    for trial in trials:
        values.setdefault(trial.placement.key, []).append(trial.metrics[study.objective.metric].value)
    study.keep_repeats(values)


def _tested(confirming: Confirming, trials: Sequence[Trial]) -> int:
    """Open the test set and have each trained network examined on it; how often the part was opened so far."""
    purpose = "confirm " + checksum(sorted([t.identity.key, t.identity.seed, t.identity.epochs] for t in trials))
    openings = open_test(confirming.run.path, purpose=purpose)
    if waiting := confirming.waiting(trials, "test"):
        confirming.view.say(
            f"test set evaluated (evaluation {openings} in this run): {len(waiting)} trained networks are examined"
        )
    confirming.examine(trials, "test")
    return openings


def _assembled(confirming: Confirming, study: Study, done: _Done, openings: int) -> Confirmation:
    problem, trials = confirming.problem, done.trials
    objective, same = problem.objective, problem.recipe.epochs == study.facts["train"]["epochs"]
    scores = confirming.scores(trials, "test")
    _check_sizes(problem, scores, confirming.run)
    judged = judge(
        confirming.confirmed(trials, done.planned, same=same), scores, objective.direction,
        None if done.rounds is None else done.rounds.looks,
    )  # fmt: skip
    units = {t.metrics[objective.metric].unit for t in trials}
    first = next(iter(trials), None)
    used = done.seeds[: max(done.planned.values())]
    return Confirmation(
        metric=objective.metric,
        direction=objective.direction,
        unit=units.pop() if len(units) == 1 else "",
        cost=objective.cost,
        epochs=problem.recipe.epochs,
        search_epochs=study.facts["train"]["epochs"],
        seeds=tuple(used),
        family=judged.family,
        test_images=_number_of_images(problem, scores),
        openings=openings,
        winner=judged.winner,
        rounds=done.rounds,
        seed_seconds=len(done.planned) * sum(t.seconds for t in trials) / max(1, len(trials)) / len(problem.devices),
        noise=judged.noise,
        networks=tuple(sorted(judged.networks, key=lambda n: n.costs[objective.cost].value)),
        verdict=Verdict(phase="confirm", claim="unknown"),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["se-nas", *words_shown(sys.argv[1:])])
        if Path(sys.argv[0]).name.startswith("se-nas")
        else "",
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


def _cautions(problem: Problem, trials: Sequence[Trial], result: Confirmation) -> tuple[Sentence, ...]:
    """Whether these trainings were long and good enough to compare networks."""
    trainings = Trainings(
        trials=trials, objective=problem.objective, data=problem.data, margin=result.margin, unit=result.unit
    )
    return cautions(training_checks(trainings))


def _number_of_images(problem: Problem, scores: Mapping[str, Mapping[int, np.ndarray]]) -> int:
    """Images of the test set; of a trainer's own, as many as its test gives scores of, else 0."""
    number = problem.data.test or max((len(v) for s in scores.values() for v in s.values()), default=0)
    loop = problem.loop if problem.data.kind == "own" else None
    return 0 if loop is not None and (number == 1 or loop.leaves_out) else number


def _check_sizes(problem: Problem, scores: Mapping[str, Mapping[int, np.ndarray]], run: RunFolder) -> None:
    """RunError if networks have different numbers of scores: they are not of one test set."""
    sizes = Counter(len(values) for by_seed in scores.values() for values in by_seed.values())
    if problem.loop is None and 1 in sizes:  # of a trainer of the user's own it may stand for all images
        raise DataError("the test set has one image: noise cannot be estimated", where=problem.config.data.target)
    if len(sizes) > 1:
        raise RunError(
            f"the networks were not examined on one test set: they have {' and '.join(map(str, sizes))} scores",
            where=str(exam_file(run.path, 0).parent),
            hint="remove that folder and confirm again: the networks are examined anew, not trained",
        )
