"""A short probe of the learning rate of a search: trainings at a third of it, at it, and at three times it."""

from __future__ import annotations

import inspect
import time
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

from se_nas.analysis.probe_report import FACTORS, Probe, Probed, write_probe
from se_nas.commands.results import existing_run, stored
from se_nas.core.config import SearchConfig
from se_nas.core.errors import ConfigError, RunError
from se_nas.core.plugins import resolve
from se_nas.core.trial import Request
from se_nas.core.words import counted, duration, in_words, level_of
from se_nas.engine.kept_start import start_of
from se_nas.engine.opening import check_same
from se_nas.engine.problem import Problem, prepare
from se_nas.engine.run_folder import STUDY, RunFolder, clear_errors
from se_nas.engine.study import Study
from se_nas.engine.trusted import blocks_of, check_config
from se_nas.executors.build import open_executor
from se_nas.report.view import View
from se_nas.training.tasks import TASKS
from se_nas.training.tryout import try_out

SHORTER = 2
"""A probe has one part in so many of the epochs of the search, and at least `FEWEST` if the search has them."""

FEWEST = 5


def probe_learning_rate(
    folder: Path, *, trust: bool = False, storage: str | None = None, view: View | None = None
) -> Probe:
    """Train no SE and SE everywhere at each rate, with one seed, and keep what they reached in ``RUN/probe.json``.

    `trust` and `storage` are those of `se_nas.confirm`. RunError if the run is no search or at work; ConfigError if its
    trainings do not heed the learning rate.
    """
    run, study = existing_run(folder, storage=storage)
    if study.name.partition(",")[0] != STUDY:
        raise RunError(f"{str(run.path)!r} is a single training, not a search", hint="probe the run of a search")
    with run.locked(), view or View(quiet=True) as shown, clear_errors(run.path):
        kept = stored(study, "config", SearchConfig)
        config = replace(kept, out=str(run.path), storage=None if study.url == run.storage else study.url)
        check_config(config, where=run.path, trust=trust, given=("sampler",), blocks=blocks_of(study))
        problem = prepare(config, run.path, init=start_of(study), stage=shown.stage)
        check_same(study, problem, run)
        _check_heeds(problem)
        probe = _probed(problem, run, study, shown)
        write_probe(run.path, probe)
        return probe


def _check_heeds(problem: Problem) -> None:
    """ConfigError if the trainings have a learning rate of their own."""
    config = problem.config
    hint = "change it in your code, and search again with another --out"
    if problem.loop is not None and not problem.loop.takes_recipe:
        raise ConfigError(f"trainer {config.trainer.target!r} has a learning rate of its own", hint=hint)
    if problem.loop is None and config.task.target not in TASKS:
        factory, _ = resolve("task", config.task.target, TASKS)
        if isinstance(factory, type) and "recipe" not in inspect.signature(factory).parameters:
            raise ConfigError(f"task {config.task.target!r} has a learning rate of its own", hint=hint)


def _probed(problem: Problem, run: RunFolder, study: Study, view: View) -> Probe:
    epochs = min(problem.recipe.epochs, max(FEWEST, problem.recipe.epochs // SHORTER))
    networks = {"baseline": problem.space.baseline, "reference": problem.space.reference}
    asked = [(role, problem.recipe.lr * factor) for role in networks for factor in FACTORS]
    executor = open_executor(problem.config.executor, problem.devices)
    times = [t.seconds / t.identity.epochs for t in study.trials() if t.state == "complete"]
    about = f", about {duration(len(asked) * epochs * sum(times) / len(times) / executor.slots)}" if times else ""
    view.stage("")
    view.say(f"probe of the learning rate: {len(asked)} trainings of {counted(epochs, 'epoch')}{about}")
    started, done = time.monotonic(), False
    try:
        requests = [_request(problem, run, role, lr, epochs) for role, lr in asked]
        futures = [executor.submit(try_out, request, lambda *_: "continue") for request in requests]
        wait(futures)
        results = [future.result() for future in futures]
        done = True
    finally:
        executor.shutdown(wait=done)
    rows = tuple(
        Probed(
            placement=networks[role].label,
            role=role,
            lr=lr,
            value=result.metrics[problem.objective.metric].value if result.state == "complete" else None,
            reason=result.reason,
        )
        for (role, lr), result in zip(asked, results, strict=True)
    )
    unit = next((r.metrics[problem.objective.metric].unit for r in results if r.state == "complete"), "")
    for row in rows:
        name = problem.objective.metric
        value = f"failed: {row.reason}" if row.value is None else f"{name} {level_of(row.value, unit)}"
        view.say(f"{in_words(row.placement)} at lr {row.lr:.3g}: {value}")
    return Probe(
        metric=problem.objective.metric,
        direction=problem.objective.direction,
        unit=unit,
        lr=problem.recipe.lr,
        epochs=epochs,
        seed=problem.config.seed,
        rows=rows,
        seconds=round(time.monotonic() - started, 1),
    )


def _request(problem: Problem, run: RunFolder, role: str, lr: float, epochs: int) -> Request:
    """A short training with another learning rate; the same seed for all."""
    placement = problem.space.baseline if role == "baseline" else problem.space.reference
    trial = problem.trial(placement, owner=run.owner, role=role, attempts=1, seed=problem.config.seed)
    recipe = replace(problem.recipe, lr=lr, epochs=epochs)
    trial = replace(trial, identity=replace(trial.identity, recipe=recipe, epochs=epochs))
    return replace(problem.request(trial, run.path), checkpoint_minutes=0.0, logs=())
