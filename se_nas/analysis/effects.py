"""What each stage and each reduction does, averaged over all other decisions.

The search's own version of the paper's tables of stages and ratios (Hu et al., arXiv 1709.01507, tables 10 and 14). An
effect is a contrast of the posterior of all trainings: the mean metric of the placements that have a level, minus
that of the same placements with the level of comparison, every other decision taking each of its levels equally often.
Limits are not looked at: placements that are too dear count as well.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd

from se_nas.analysis.estimates import Fitted
from se_nas.core.words import ANY
from se_nas.samplers.features import Array
from se_nas.space.exact_cost import se_cost
from se_nas.space.levels import Codes
from se_nas.space.space import Space

#: Placements of the other decisions that are averaged, at most.
OTHERS = 2048
#: With more features than this a quarter of them: a report must take seconds.
MANY_FEATURES = 320
#: The decision that stands for all stages.
EVERYWHERE = "everywhere"

COLUMNS = ("decision", "setting", "level", "against", "effect", "lower", "upper", "p_better", "p_same",
           "p_worse", "params_added", "trained")  # fmt: skip


def effects_table(told: Fitted | None, space: Space, *, margin: float = 0.0) -> pd.DataFrame | None:
    """One row for each stage and reduction, and for each reduction in all stages; None without a posterior.

    Columns: ``decision`` (a stage, a unit, or `EVERYWHERE`), ``setting`` (``reduction``, ``position``, ...), ``level``
    (`ANY` for the mean over the reductions), ``against`` (the level of comparison: ``none`` where there is one),
    ``effect``, ``lower`` and ``upper`` (90 % interval; an end of exactly 0 is the point mass at "no effect") in units
    of the metric, ``p_better``, ``p_same`` and ``p_worse`` (probabilities to be better by more than the ``margin``, to
    differ by no more, and to be worse by more; they add up to 1), ``params_added`` (NaN where the closed form does not
    know it: `keep`) and ``trained`` (complete trainings that have the level).
    """
    if told is None:
        return None
    others = _others(told, space)
    rows: list[dict[str, Any]] = []
    contrasts: list[Array] = []
    for j, parameter in enumerate(told.levels.names):
        decision, _, setting = parameter.rpartition(".")
        first, *levels = range(len(space.parameters[parameter]))
        phi = {level: _mean_features(told, others, {j: level}) for level in (first, *levels)}
        values = space.parameters[parameter]
        for level in levels:
            contrasts.append(phi[level] - phi[first])
            rows.append({
                "decision": decision, "setting": setting, "level": _text(values[level]),
                "against": _text(values[first]),
                "params_added": _params(space, decision, values[level]) if setting == "reduction" else np.nan,
                "trained": int((told.codes[:, j] == level).sum()),
            })  # fmt: skip
        if setting == "reduction" and values[first] == "none" and len(levels) > 1:
            contrasts.append(np.mean([phi[level] for level in levels], axis=0) - phi[first])
            rows.append({
                "decision": decision, "setting": setting, "level": ANY, "against": "none", "params_added": np.nan,
                "trained": int((told.codes[:, j] != first).sum()),
            })  # fmt: skip
    for row, contrast in _everywhere(told, space, others):
        rows.append(row)
        contrasts.append(contrast)
    return _judged(told, rows, contrasts, margin) if rows else None


def _judged(told: Fitted, rows: list[dict[str, Any]], contrasts: list[Array], margin: float) -> pd.DataFrame:
    """The rows with the posterior of their contrasts (``p`` coefficients each)."""
    phi = np.stack(contrasts)
    believed, table = told.posterior.marginals(phi), pd.DataFrame(rows)
    table["effect"] = told.sign * (phi @ told.posterior.moments()[0])
    table["lower"], table["upper"] = np.sort(told.sign * np.stack(believed.interval()), axis=0) + 0.0
    chances = believed.chances(margin)
    table["p_better"], table["p_same"], table["p_worse"] = chances.better, chances.same, chances.worse
    return table[list(COLUMNS)]


def _others(told: Fitted, space: Space) -> Codes:
    """Placements to average over: all of them while they are few, else a sample; ``m x d`` codes."""
    searched = [space.searched(name) for name in told.levels.names]
    size = OTHERS if len(told.posterior.features.scale) <= MANY_FEATURES else OTHERS // 4
    if space.size <= size:
        return np.array(list(itertools.product(*searched)), dtype=np.int64)
    generator = np.random.default_rng(0)
    return np.stack([generator.choice(levels, size=size) for levels in searched], axis=1).astype(np.int64)


def _mean_features(told: Fitted, others: Codes, fixed: dict[int, int]) -> Array:
    """Mean features (``p``) of the placements with some parameters held at a level."""
    codes = others.copy()
    for j, level in fixed.items():
        codes[:, j] = level
    return np.asarray(told.posterior.features(codes).mean(axis=0))


def _everywhere(told: Fitted, space: Space, others: Codes) -> list[tuple[dict[str, Any], Array]]:
    """One reduction in all stages against none in any, for the reductions that every stage may have."""
    reductions = {
        j: space.parameters[name] for j, name in enumerate(told.levels.names) if name.rpartition(".")[2] == "reduction"
    }
    shared = [r for r in next(iter(reductions.values()), ()) if all(r in values for values in reductions.values())]
    if "none" not in shared or len(reductions) < 2:
        return []

    def phi(value: Any) -> Array:
        return _mean_features(told, others, {j: values.index(value) for j, values in reductions.items()})

    def trained(value: Any) -> int:
        return int(np.all([told.codes[:, j] == v.index(value) for j, v in reductions.items()], axis=0).sum())

    return [
        (
            {
                "decision": EVERYWHERE, "setting": "reduction", "level": _text(value), "against": "none",
                "params_added": sum(_params(space, decision.name, value) for decision in space.decisions),
                "trained": trained(value),
            },
            phi(value) - phi("none"),
        )
        for value in shared
        if value != "none"
    ]  # fmt: skip


def _params(space: Space, decision: str, reduction: Any) -> float:
    """Parameters that a reduction adds in all units of a decision, at their standard positions; NaN for `keep`."""
    if reduction == "keep":
        return float("nan")
    total = 0
    for unit in next(d for d in space.decisions if d.name == decision).units:
        choice = space.choice(unit, reduction)
        site = unit.site(choice.position)
        total += se_cost(site.channels, site.size, choice).params
    return float(total)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
