"""The section of a confirm: what fresh seeds and the test set say of the finalists."""

from __future__ import annotations

from collections.abc import Sequence

from se_nas.analysis.confirmation import Confirmation, Confirmed
from se_nas.core.words import ALONE, REFERENCES, TOGETHER, cost_name, cost_text, in_words, reference_name
from se_nas.report.metric import Metric
from se_nas.report.page import Head, Section, Table


def confirmed_figures(found: Confirmation, chosen: Confirmed, metric: Metric) -> list[tuple[str, str, str]]:
    """What the confirm recommends, and its numbers on the test set."""
    seeds = f"confirmed with {len(chosen.validation.values)} fresh seeds"
    figures = [("Recommended", headline(chosen.label), seeds)]
    if chosen.test is not None:
        span = "" if chosen.test.interval is None else f"{metric.span(*chosen.test.interval)} (90 %, {ALONE})"
        value = f"{metric.value(chosen.test.mean)} {metric.unit}".strip()
        figures.append((f"{metric.name}, test set", value, span))
    base, difference = found.of_role("baseline"), chosen.against.get("baseline")
    if base is not None and difference is not None:
        cost = found.cost
        priced = cost in chosen.costs and cost in base.costs and base.costs[cost].value
        added = 100 * (chosen.costs[cost].value / base.costs[cost].value - 1) if priced else None
        note = "" if added is None else f"{added:+.2f} % {cost_name(cost)}"
        figures.append(("vs. no SE, test set", f"{metric.gain(difference.mean)} {metric.difference}".strip(), note))
    return figures


def headline(label: str) -> str:
    """A placement in words, as a heading."""
    words = in_words(label)
    return words[:1].upper() + words[1:]


def confirmed_section(found: Confirmation, metric: Metric, costs: Sequence[str]) -> Section:
    """What fresh seeds and the test set say of the finalists."""
    points = {role: found.of_role(role) for role in REFERENCES if role != "given"}
    names = {role: reference_name(role, point.label) for role, point in points.items() if point is not None}
    heads = [Head(label="network")]
    numbers = ["seeds", f"validation, {metric.head}", f"test, {metric.head}"]
    for name in names.values():
        numbers += [f"test, vs. {name}{f' ({metric.difference})' if metric.difference else ''}", f"p ({TOGETHER})"]
    numbers += ["overestimated by the search", *(cost_name(n) for n in costs)]
    table = Table(
        caption="Confirmed with fresh seeds, by rising cost. Second lines: 90 % intervals, of values "
        f"{ALONE} (for this network alone), of differences {TOGETHER} (for all finalists at once). The recommended "
        "network is highlighted.",
        heads=[*heads, *(Head(label=label, number=True) for label in numbers)],
        rows=[_row(network, list(names), metric, costs) for network in found.networks],
        marked=tuple(k for k, network in enumerate(found.networks) if network.key == found.verdict.network),
    )
    title = "Confirmed with fresh seeds"
    return Section(id="confirmed", title=title, short="Confirmed", text=_how(found, metric), tables=[table])


def _how(found: Confirmation, metric: Metric) -> list[str]:
    """How it was confirmed, and how large the noise is."""
    images = f"{found.test_images:,} images" if found.test_images else "the trainer's own images"
    text = [
        f"Trained again with {'' if found.rounds is None else 'up to '}{len(found.seeds)} fresh seeds, the same for "
        f"all, for {found.epochs} {'epoch' if found.epochs == 1 else 'epochs'}. Chosen on the validation set; test set "
        f"evaluated ({_nth(found.openings)} time in this run, {images})."
    ]
    if found.noise is not None:
        finite = found.noise.image_sd
        text.append(
            f"Noise of one training: {metric.size_text(found.noise.seed_sd)}; by the finite test set: "
            + ("not known." if finite is None else f"{metric.size_text(finite)}.")
        )
    return text


def _nth(number: int) -> str:
    """An ordinal number.

    >>> [_nth(n) for n in (1, 2, 3, 4, 11, 21)]
    ['1st', '2nd', '3rd', '4th', '11th', '21st']
    """
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _row(network: Confirmed, roles: Sequence[str], metric: Metric, costs: Sequence[str]) -> list[str]:
    cells = [network.label.replace(",", ", ")]
    cells[0] += f" ({reference_name(network.role, network.label)})" if network.role in REFERENCES else ""
    cells += [str(len(network.validation.values)), metric.estimate(network.validation), metric.estimate(network.test)]
    for role in roles:
        difference = network.against.get(role)
        if difference is None:
            cells += ["", ""]
            continue
        span = difference.family_interval or difference.interval
        ends = "" if span is None else f"\n{metric.gain(span[0])} to {metric.gain(span[1])}"
        chance = difference.family_p if difference.family_p is not None else difference.p
        cells += [f"{metric.gain(difference.mean)}{ends}", "" if chance is None else f"{chance:.3f}"]
    cells.append(metric.gain(network.optimism))
    return [*cells, *(cost_text(network.costs[n].value, n) if n in network.costs else "" for n in costs)]
