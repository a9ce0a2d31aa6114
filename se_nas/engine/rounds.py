"""A confirm in rounds: more seeds until the answer is settled, for the networks that they are of use for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from se_nas.analysis.confirmation import Rounds
from se_nas.analysis.looks import Looks
from se_nas.analysis.margin import margin_of
from se_nas.analysis.rounds import Round, judge_round
from se_nas.core.trial import Trial
from se_nas.core.words import counted, in_words, listed
from se_nas.engine.confirming import Confirming, Job


def train_fixed(confirming: Confirming, seeds: Sequence[int]) -> list[Trial]:
    """Train each network with each seed."""
    jobs: list[Job] = [(network, seed) for seed in seeds for network in confirming.networks]
    networks = confirming.networks
    confirming.view.say(
        f"{counted(len(networks), 'network')} ({', '.join(n.placement.label for n in networks)}) x "
        f"{counted(len(seeds), 'fresh seed')}, {counted(confirming.problem.recipe.epochs, 'epoch')}: "
        f"{counted(len(jobs), 'training')}, {confirming.missing(jobs)} to do, about "
        f"{confirming.minutes(jobs):.1f} min; then the test set"
    )
    return confirming.train(jobs)


def train_in_rounds(
    confirming: Confirming, seeds: Sequence[int], margin: float | None
) -> tuple[list[Trial], dict[str, int], Rounds]:
    """Train until the answer is settled or all seeds are used; the trainings, and with how many seeds each network was.

    Parameters
    ----------
    seeds:
        As many as may be used.
    margin:
        As it was given (`margin_of`).
    """
    looks, networks = Looks(last=len(seeds)), confirming.networks
    every: list[Job] = [(network, seed) for seed in seeds for network in networks]
    confirming.view.say(
        f"{counted(len(networks), 'network')} ({', '.join(n.placement.label for n in networks)}), "
        f"{counted(confirming.problem.recipe.epochs, 'epoch')}, with fresh seeds until the answer is settled "
        f"(looked at after {listed([str(k) for k in looks.seeds])}): at most {counted(len(every), 'training')}, "
        f"{confirming.missing(every)} to do, "
        f"about {confirming.minutes(every):.1f} min; then the test set"
    )
    planned = dict.fromkeys((n.placement.key for n in networks), looks.seeds[0])
    trials: list[Trial] = []
    for look in looks.seeds:
        jobs = [(n, s) for k, s in enumerate(seeds) for n in networks if k < planned[n.placement.key]]
        trials = confirming.train(jobs, beyond=len(every) - len(jobs))
        found = _judged(confirming, trials, planned, looks, margin)
        confirming.view.say(_in_words(confirming, found, look))
        if found.end:
            return trials, planned, Rounds(looks=looks, ended=found.end)
        again = {n.placement.key for n in networks if n.role == "baseline"} | set(found.train)
        planned |= dict.fromkeys(again, next(k for k in looks.seeds if k > look))
    raise AssertionError("the last look always ends a confirm")


def _judged(
    confirming: Confirming, trials: Sequence[Trial], planned: Mapping[str, int], looks: Looks, margin: float | None
) -> Round:
    """Judge a round by the validation set."""
    problem = confirming.problem
    if problem.loop is None:
        confirming.examine(trials, "val")
    networks = confirming.confirmed(trials, planned, same=False)
    base = next((n.validation.mean for n in networks if n.role == "baseline"), None)
    units = {t.metrics[problem.objective.metric].unit for t in trials}
    known = problem.data.val and problem.data.test
    return judge_round(
        networks,
        confirming.scores(trials, "val"),
        problem.objective.direction,
        looks=looks,
        seeds=max(planned.values()),
        margin=margin_of(margin, unit=units.pop() if len(units) == 1 else "", baseline=base),
        images=problem.data.val / problem.data.test if known else 1.0,
    )


def _in_words(confirming: Confirming, found: Round, seeds: int) -> str:
    if found.end:
        return f"after {seeds} seeds: {found.end}"
    names = [in_words(n.placement.label) for n in confirming.networks if n.placement.key in found.train]
    return (
        f"after {seeds} seeds: a decision by the test set is {100 * found.chance:.0f} % probable now, "
        f"{100 * found.later:.0f} % with more seeds; more for {listed(names)}"
    )
