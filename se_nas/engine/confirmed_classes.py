"""The classes of a confirmed network beside those of the plain backbone, from the exams of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from se_nas.analysis.by_class import ByClass, compare_classes
from se_nas.analysis.confirmation import Confirmation, Confirmed
from se_nas.engine.exam import exam_file, read_classes


def network_with_se(result: Confirmation) -> Confirmed | None:
    """The network that the verdict names, or the best on validation where that is the plain backbone."""
    named = result.network(result.verdict.network)
    return result.network(result.winner) if named is None or named.role == "baseline" else named


def by_class(run: Path, result: Confirmation, names: Sequence[str]) -> ByClass | None:
    """Class by class what the network with SE has over the backbone without.

    None where the networks do not give classes, or fewer than two seeds were trained of both.

    Parameters
    ----------
    names:
        Of the classes, by their numbers.
    """
    base, chosen = result.of_role("baseline"), network_with_se(result)
    if base is None or chosen is None or not names:
        return None
    seeds = [seed for seed in base.trials if seed in chosen.trials]
    if len(seeds) < 2:
        return None
    others = [n for n in result.networks if n not in (base, chosen) and set(seeds) <= set(n.trials)]
    found = [
        [read_classes(exam_file(run, network.trials[seed])) for seed in seeds] for network in (base, chosen, *others)
    ]
    known = [[exam for exam in row if exam is not None] for row in found]
    if any(len(row) < len(seeds) for row in known):
        return None
    predicted = np.stack([np.stack([exam[0] for exam in row]) for row in known])
    return compare_classes(predicted, known[0][0][1], names, network=chosen.key)
