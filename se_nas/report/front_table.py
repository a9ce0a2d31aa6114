"""The front of a search as a table of the terminal."""

from __future__ import annotations

from rich.table import Table

from se_nas.analysis.summary import Network, Summary
from se_nas.core.latency_names import is_latency
from se_nas.core.words import CHANCES_HEAD, amount, chances_cell, chances_note, cost_with_unit


def front_display(summary: Summary, *, title: str) -> Table:
    """The front of a summary as a table, the reference points below it."""
    table = Table(title=title, title_justify="left")
    metric, estimated = summary.objective.metric, summary.estimated
    values = [metric, "mean", "90 % interval", "p_front"] if estimated else [metric]
    chances = [CHANCES_HEAD.replace(" / worse", "\n/ worse")] if estimated and summary.baseline is not None else []
    for name in ("trial", "placement", *values, "gain", *chances, "params", "GFLOPs", "added vs. no SE"):
        table.add_column(name, justify="left" if name == "placement" else "right", overflow="fold")
    everywhere = [set(n.costs) for n in (*summary.front, *summary.references.values())]
    timed = sorted(filter(is_latency, set.intersection(*everywhere))) if everywhere else []
    axes = dict.fromkeys((summary.objective.cost, *summary.objective.more, *timed))
    more = [name for name in axes if name not in ("gflops", "macs", "params")]
    for name in more:
        table.add_column(cost_with_unit(name), justify="right", overflow="fold")
    shown = [n for n in summary.front if n.posterior_front or not estimated]
    others = {n.trial: n for n in (*summary.references.values(), *summary.front)}
    for network in shown:
        others.pop(network.trial, None)
        table.add_row(*_cells(network, summary), *(f"{network.costs[name]:.4g}" for name in more))
    if chances:
        table.caption, table.caption_justify = chances_note(summary.margin, summary.unit), "left"
    table.add_section()
    for network in others.values():
        table.add_row(*_cells(network, summary), *(f"{network.costs[name]:.4g}" for name in more), style="dim")
    return table


def _cells(network: Network, summary: Summary) -> list[str]:
    name = {"baseline": " (no SE)", "reference": " (reference)", "given": " (as given)"}.get(network.role, "")
    if summary.estimated and network.observed_front and not network.posterior_front:
        name += " (observed front only)"
    cells = [str(network.trial), f"{network.placement.replace(',', ' ')}{name}", f"{network.metric:.4f}"]
    if summary.estimated:
        known = network.mean is not None
        cells += [f"{network.mean:.4f}", f"{network.lower:.4f} to {network.upper:.4f}", f"{network.p_front:.2f}"] \
            if known else ["", "", ""]  # fmt: skip
    costs, base = network.costs, summary.baseline
    more = ["", ""]
    if base is not None:
        more = [
            amount(network.value - base.value, summary.unit),
            f"{costs['params'] - base.costs['params']:+,} params "
            f"{100 * (costs['macs'] / base.costs['macs'] - 1):+.3f} % MACs",
        ]
    chances = []
    if summary.estimated and base is not None:
        own = network.trial == base.trial
        chances = ["" if own else chances_cell(network.p_better, network.p_same, network.p_worse)]
    return [*cells, more[0], *chances, f"{costs['params']:,}", f"{costs['gflops']:.6f}", more[1]]
