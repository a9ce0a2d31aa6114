"""A discrete search space as rows of levels, for arrays and for Optuna, and what each level means.

There is one numbering: a level is the index of a value among those of its parameter. `Space` has the levels of a
placement by name; the studies of a search store them as they are, in the ranges that `distributions` makes; and
*codes* are the same levels as a row of ``d`` integers, in the order of the parameters. Only in anybody's own study,
whose parameters may have other values than levels, codes and parameters differ: `LevelSpace` translates. The meaning
of a level is ``None`` (no SE block), a number (the reduction ratio) or a name (an unordered option, as a position).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from se_nas.core.errors import SpaceError

Codes = npt.NDArray[np.int64]
Meaning = float | str | None
LevelsArgument = Mapping[str, Sequence[object]] | Sequence[object] | None


@dataclass(frozen=True, kw_only=True)
class LevelSpace:
    """The values of every parameter and their meaning, in one fixed order.

    ``values[j][i]`` is what Optuna stores for code ``i`` of parameter ``j``; ``meanings[j][i]`` is what it builds.
    """

    names: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]
    meanings: tuple[tuple[Meaning, ...], ...]

    @classmethod
    def of(cls, space: Mapping[str, BaseDistribution], levels: LevelsArgument = None) -> LevelSpace:
        """Read an Optuna search space.

        Parameters
        ----------
        space:
            Integer, categorical or stepped float distributions by parameter name.
        levels:
            The meaning of the levels, in the order of the values: one sequence for all parameters or one per
            parameter name, for example ``(None, 16, 8, 4)``; ``None``, 0 and ``"none"`` are the absence of SE,
            other numbers are reduction ratios, other strings are unordered options. Without it, choices of a
            categorical parameter speak for themselves, the number 0 is the absence of SE, and other numbers
            are ordered levels: each step is one doubling of the squeeze width.

        Raises
        ------
        SpaceError
            For an empty space, a continuous parameter, or levels that do not fit the parameter.
        """
        if not space:
            raise SpaceError("the search space has no parameter.")
        unknown = sorted(set(levels) - set(space)) if isinstance(levels, Mapping) else []
        if unknown:
            raise SpaceError(f"`levels` names {unknown}, which the space does not have.", allowed=sorted(space))
        values = tuple(_values(name, distribution) for name, distribution in space.items())
        meanings = []
        for (name, distribution), allowed in zip(space.items(), values, strict=True):
            given = levels.get(name) if isinstance(levels, Mapping) else levels
            meanings.append(_given(name, given, allowed) if given is not None else _default(distribution, allowed))
        return cls(names=tuple(space), values=values, meanings=tuple(meanings))

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of levels of every parameter."""
        return tuple(len(v) for v in self.values)

    @property
    def size(self) -> int:
        """Number of placements, exact however large."""
        return math.prod(self.shape)

    def encode(self, params: Mapping[str, Any]) -> tuple[int, ...] | None:
        """The codes of a parameter dictionary; None where a parameter is missing or has a value outside the space."""
        codes = []
        for name, values in zip(self.names, self.values, strict=True):
            matches = (i for i, v in enumerate(values) if name in params and _same(v, params[name]))
            code = next(matches, None)
            if code is None:
                return None
            codes.append(code)
        return tuple(codes)

    def decode(self, codes: Sequence[int] | Codes) -> dict[str, Any]:
        """The parameter dictionary of one row of codes, in plain Python values."""
        return {name: values[int(i)] for name, values, i in zip(self.names, self.values, codes, strict=True)}

    def all(self) -> Codes:
        """Every placement, ``size x d``, the last parameter running fastest."""
        return np.indices(self.shape).reshape(len(self.shape), -1).T.astype(np.int64)

    def neighbours(self, codes: Codes) -> Codes:
        """Every placement that differs in one parameter from a row of ``codes`` (``n x d``); may repeat rows."""
        rows = [codes[:0]]
        for j, count in enumerate(self.shape):
            for step in range(1, count):
                changed = codes.copy()
                changed[:, j] = (changed[:, j] + step) % count
                rows.append(changed)
        return np.concatenate(rows)


def distributions(parameters: Mapping[str, Sequence[object]]) -> dict[str, BaseDistribution]:
    """Each parameter as an ordered index of its values: what Optuna draws levels from."""
    return {name: IntDistribution(0, len(values) - 1) for name, values in parameters.items()}


def _values(name: str, distribution: BaseDistribution) -> tuple[Any, ...]:
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return tuple(range(distribution.low, distribution.high + 1, distribution.step))
    if isinstance(distribution, FloatDistribution) and (distribution.single() or distribution.step is not None):
        if distribution.single():
            return (distribution.low,)
        count = round((distribution.high - distribution.low) / float(distribution.step or 1.0))
        return tuple(distribution.low + i * float(distribution.step or 1.0) for i in range(count + 1))
    raise SpaceError(
        f"parameter {name!r} is continuous ({distribution}); known cost needs a countable space.",
        hint="use an integer or categorical distribution, or a float with a step.",
    )


def _given(name: str, levels: Sequence[object], values: tuple[Any, ...]) -> tuple[Meaning, ...]:
    if isinstance(levels, str) or len(levels) != len(values):
        raise SpaceError(
            f"`levels` of parameter {name!r} must have {len(values)} entries, one per value, not {levels!r}.",
            allowed=values,
        )
    numbers = [m for m in levels if isinstance(m, int | float) and not isinstance(m, bool)]
    if any(not math.isfinite(m) or m < 0 for m in numbers):
        raise SpaceError(f"`levels` of parameter {name!r} are reduction ratios and cannot be negative: {levels!r}.")
    return tuple(_meaning(level) for level in levels)


def _default(distribution: BaseDistribution, values: tuple[Any, ...]) -> tuple[Meaning, ...]:
    if isinstance(distribution, CategoricalDistribution):
        return tuple(_meaning(v) for v in values)
    # Ordered levels: one step up is one doubling of the width, that is, one halving of the reduction.
    return tuple(None if v == 0 else 2.0 ** -float(i) for i, v in enumerate(values))


def _meaning(level: object) -> Meaning:
    if level is None or (isinstance(level, str) and level.lower() == "none"):
        return None
    if isinstance(level, int | float) and not isinstance(level, bool):
        return None if level == 0 else float(level) if level > 0 else str(level)
    return str(level)


def _same(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
    return (type(a) is type(b) and a == b) or (not isinstance(a, bool) and not isinstance(b, bool) and a == b)


def pairs_of(count: int) -> list[tuple[int, int]]:
    """All pairs ``i < j`` below ``count``."""
    return list(itertools.combinations(range(count), 2))
