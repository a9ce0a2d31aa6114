"""The section of a confirm: what fresh seeds and the test set say of the finalists."""

from __future__ import annotations

from collections.abc import Sequence

from se_nas.analysis.confirmation import Confirmation, Confirmed, Estimate
from se_nas.core.words import REFERENCES, cost_name, cost_text, in_words, reference_name
from se_nas.report.metric import Metric
from se_nas.report.page import Head, Section, Table


def confirmed_figures(found: Confirmation, chosen: Confirmed, metric: Metric) -> list[tuple[str, str, str]]:
    """What the confirm recommends, and its numbers on the test set."""
    seeds = f"confirmed with {len(chosen.validation.values)} fresh seeds"
    figures = [("Recommended", headline(chosen.label), seeds)]
    if chosen.test is not None:
        span = "" if chosen.test.interval is None else f"{metric.span(*chosen.test.interval)} (90 %)"
        value = f"{metric.value(chosen.test.mean)} {metric.unit}".strip()
        figures.append((f"{metric.name}, test set", value, span))
    base, difference = found.of_role("baseline"), chosen.against.get("baseline")
    if base is not None and difference is not None:
        cost = found.cost
        priced = cost in chosen.costs and cost in base.costs and base.costs[cost].value
        added = 100 * (chosen.costs[cost].value / base.costs[cost].value - 1) if priced else None
        note = "" if added is None else f"{added:+.2f} % {cost_name(cost)}"
        figures.append(("Against no SE", f"{metric.gain(difference.mean)} {metric.difference}".strip(), note))
    return figures


def headline(label: str) -> str:
    """A placement in words, as a heading."""
    words = in_words(label)
    return words[:1].upper() + words[1:]


def confirmed_section(found: Confirmation, metric: Metric, costs: Sequence[str]) -> Section:
    """What fresh seeds and the test set say of the finalists."""

    def estimate(e: Estimate | None) -> list[str]:
        return ["", ""] if e is None else [metric.value(e.mean), "" if e.interval is None else metric.span(*e.interval)]

    rows: list[list[str]] = []
    marked: list[int] = []
    points = {role: found.of_role(role) for role in REFERENCES if role != "given"}
    names = {role: reference_name(role, point.label) for role, point in points.items() if point is not None}
    for network in found.networks:
        if network.key == found.verdict.network:
            marked.append(len(rows))
        cells = [network.label.replace(",", ", ")]
        cells[0] += f" ({reference_name(network.role, network.label)})" if network.role in REFERENCES else ""
        cells += [str(len(network.validation.values)), *estimate(network.validation), *estimate(network.test)]
        for role in names:
            difference = network.against.get(role)
            span = None if difference is None else difference.family_interval or difference.interval
            cells.append("" if difference is None else metric.gain(difference.mean))
            cells.append("" if span is None else f"{metric.gain(span[0])} to {metric.gain(span[1])}")
            chance = (
                None if difference is None else difference.family_p if difference.family_p is not None else difference.p
            )
            cells.append("" if chance is None else f"{chance:.3f}")
        cells.append(metric.gain(network.optimism))
        cells += [cost_text(network.costs[n].value, n) if n in network.costs else "" for n in costs]
        rows.append(cells)
    heads = [Head(label="network")]
    heads += [Head(label=label, number=True) for label in ("seeds", f"validation, {metric.head}", "90 % interval",
                                                           f"test, {metric.head}", "90 % interval")]  # fmt: skip
    for name in names.values():
        heads += [
            Head(label=label, number=True)
            for label in (f"test against {name}", "90 % interval, all finalists", "p, all finalists")
        ]
    heads.append(Head(label="overestimated by the search", number=True))
    heads += [Head(label=cost_name(n), number=True) for n in costs]
    images = f"{found.test_images:,} images" if found.test_images else "the trainer's own images"
    text = [
        f"Trained again with {'' if found.rounds is None else 'up to '}{len(found.seeds)} fresh seeds, the same for "
        f"all, for {found.epochs} {'epoch' if found.epochs == 1 else 'epochs'}. Chosen on "
        f"the validation set; the test set ({images}) was opened {found.openings} "
        f"{'time' if found.openings == 1 else 'times'} in this run."
    ]
    if found.noise is not None:
        finite = found.noise.image_sd
        text.append(
            f"Noise of one training: {metric.value(found.noise.seed_sd)} {metric.difference}; by the finite test set: "
            + ("not known." if finite is None else f"{metric.value(finite)} {metric.difference}.")
        )
    table = Table(caption="Confirmed with fresh seeds, by rising cost", heads=heads, rows=rows, marked=tuple(marked))
    return Section(id="confirmed", title="Confirmed with fresh seeds", short="Confirmed", text=text, tables=[table])
