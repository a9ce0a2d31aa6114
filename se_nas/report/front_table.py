"""The front of a search as a table of the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from se_nas.analysis.summary import Network, Summary
from se_nas.core.latency_names import is_latency
from se_nas.core.words import (
    CHANCES_HEAD,
    amount,
    chances_cell,
    chances_note,
    cost_with_unit,
    flops_told_apart,
    level_of,
    levels_of,
    scale_of,
)
from se_nas.report.fitted_table import Column, FittedTable

ROLES = {"baseline": " (no SE)", "reference": " (reference)", "given": " (as given)"}


def front_display(summary: Summary, *, title: str, elsewhere: str = "") -> FittedTable:
    """The front of a summary as a table, the reference points below it; as many columns as there is room for.

    `elsewhere` is where the others are.
    """
    shown = [n for n in summary.front if n.posterior_front or not summary.estimated]
    others = {n.trial: n for n in (*summary.references.values(), *summary.front)}
    for network in shown:
        others.pop(network.trial, None)
    networks = [*shown, *others.values()]
    told = summary.estimated and summary.baseline is not None
    return FittedTable(
        title=title,
        columns=[
            Column(head="trial", cells=[str(n.trial) for n in networks]),
            Column(head="placement", cells=[_placement(n, summary) for n in networks], text=True),
            *_values(networks, summary),
            *_against_no_se(networks, summary),
            *_costs(networks, summary),
        ],
        styles=["" if n in shown else "dim" for n in networks],
        sections=frozenset({len(shown)}),
        note=chances_note(summary.margin, summary.unit) if told else "",
        elsewhere=elsewhere,
    )


def _placement(network: Network, summary: Summary) -> str:
    name = ROLES.get(network.role, "")
    if summary.estimated and network.observed_front and not network.posterior_front:
        name += " (observed front only)"
    return f"{network.placement.replace(',', ' ')}{name}"


def _values(networks: Sequence[Network], summary: Summary) -> list[Column]:
    """The metric of one training, and what the model makes of all of them."""
    observed = [level_of(n.metric, summary.unit) for n in networks]
    if not summary.estimated:
        return [Column(head=summary.objective.metric, cells=observed)]
    unit = summary.unit
    known = [n if n.mean is not None else None for n in networks]
    return [
        Column(head=summary.objective.metric, cells=observed, rank=4),
        Column(head="mean", cells=["" if n is None else level_of(n.mean or 0.0, unit) for n in known]),
        Column(head="90 % interval", rank=5, cells=["" if n is None else levels_of(*n.interval, unit) for n in known]),
        Column(head="p_front", rank=7, cells=["" if n is None else f"{n.p_front:.2f}" for n in known]),
    ]  # fmt: skip


def _against_no_se(networks: Sequence[Network], summary: Summary) -> list[Column]:
    """Gain and chances; empty where no SE is not trained."""
    if (base := summary.baseline) is None:
        return []
    unit = scale_of(summary.unit)[2]
    gains = [amount(n.value - base.value, summary.unit, name=False) for n in networks]
    columns = [Column(head=f"gain ({unit})" if unit else "gain", cells=gains, rank=1)]
    if summary.estimated:
        chances = ["" if n.trial == base.trial else chances_cell(n.p_better, n.p_same, n.p_worse) for n in networks]
        columns.append(Column(head=CHANCES_HEAD, cells=chances, rank=2))
    return columns


def _costs(networks: Sequence[Network], summary: Summary) -> list[Column]:
    """The cost axes first, then the other costs that are known of all, and what is added to no SE."""
    axes = (summary.objective.cost, *summary.objective.more)
    unit, flops = flops_told_apart([n.costs["gflops"] for n in networks])
    columns = [
        Column(head="params", cells=[f"{n.costs['params']:,}" for n in networks], rank=1 if "params" in axes else 6),
        Column(head=unit, cells=flops, rank=1 if {"gflops", "macs"} & {*axes} else 3),
    ]
    timed = sorted(filter(is_latency, set.intersection(*(set(n.costs) for n in networks)))) if networks else []
    for name in dict.fromkeys((*axes, *timed)):
        if name not in ("gflops", "macs", "params"):
            cells = [f"{n.costs[name]:.4g}" for n in networks]
            columns.append(Column(head=cost_with_unit(name), cells=cells, rank=1 if name in axes else 3))
    if (base := summary.baseline) is not None:
        added = [f"{n.costs['params'] - base.costs['params']:+,}" for n in networks]
        more = [f"{100 * (n.costs['macs'] / base.costs['macs'] - 1):+.3f} %" for n in networks]
        columns += [
            Column(head="params vs. no SE", cells=added, rank=8),
            Column(head="MACs vs. no SE", cells=more, rank=5),
        ]
    return columns
