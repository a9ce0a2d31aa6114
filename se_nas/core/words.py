"""How placements, metrics and costs are called wherever a person reads them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from se_nas.core.blocks import BLOCKS
from se_nas.core.costs import EXACT, cost_facts
from se_nas.core.placement import ALLOWED

ANY = "any"
"""The level that stands for the mean over all reductions of a stage."""


def in_words(label: str) -> str:
    """A placement's short form as one reads it.

    >>> in_words("stage1=16,stage2=none,stage3=16"), in_words("none"), in_words("all:16"), in_words("keep")
    ('SE with r=16 in stages 1 and 3', 'no SE', 'SE with r=16 everywhere', "the network's own SE")
    >>> in_words("layer1=8:pre,layer2=keep")
    "SE with r=8 (pre) in layer1 and the network's own SE in layer2"
    >>> in_words("stage1=eca,stage2=8:cbam:pre")
    'ECA in stage 1 and CBAM with r=8 (pre) in stage 2'
    >>> in_words("stage1=mine,stage2=8:mine:pre")
    'mine in stage 1 and mine with r=8 (pre) in stage 2'
    """
    if label == "none":
        return "no SE"
    if label == "keep":
        return _choice(label)
    if label.startswith("all:"):
        return f"{_choice(label[4:])} everywhere"
    groups: dict[str, list[str]] = {}
    for part in label.split(","):
        name, _, value = part.partition("=")
        if value != "none":
            groups.setdefault(value, []).append(name)
    return listed([f"{_choice(value)} in {_places(names)}" for value, names in groups.items()]) or label


def _choice(value: str) -> str:
    reduction, *settings = value.split(":")
    if reduction == "keep":
        return "the network's own SE"
    text = kind = _kind(value)
    if not (reduction in BLOCKS or reduction.isidentifier()):
        text = f"{kind} with r={reduction}"
        if settings and not _is_setting(settings[0]):
            settings.pop(0)
    return text + (f" ({', '.join(settings)})" if settings else "")


def _kind(value: str) -> str:
    """What a block is called in a short form; of the user's own only the name is known here."""
    reduction, *settings = value.split(":")
    if reduction in BLOCKS or reduction.isidentifier():
        block = "se" if reduction == "keep" else reduction
    else:
        block = next((setting for setting in settings[:1] if not _is_setting(setting)), "se")
    return BLOCKS[block].title if block in BLOCKS else block


def _is_setting(word: str) -> bool:
    return any(word in words for name, words in ALLOWED.items() if name != "block")


def kinds_in(label: str) -> tuple[str, ...]:
    """What the blocks in a placement's short form are called, each once; SE where it says nothing.

    >>> kinds_in("stage1=eca,stage2=8:cbam:pre,stage3=none"), kinds_in("all:16"), kinds_in("none")
    (('ECA', 'CBAM'), ('SE',), ('SE',))
    """
    values = [part.rpartition("=")[2] for part in label.removeprefix("all:").split(",")]
    return tuple(dict.fromkeys(_kind(value) for value in values if value not in ("", "none"))) or ("SE",)


def blocks_in(label: str) -> str:
    """The blocks of a placement by its short form.

    >>> blocks_in("all:16"), blocks_in("stage1=eca"), blocks_in("stage1=eca,stage2=8"), blocks_in("")
    ('SE blocks', 'ECA blocks', 'blocks', 'SE blocks')
    """
    kinds = kinds_in(label)
    return f"{kinds[0]} blocks" if len(kinds) == 1 else "blocks"


def attention_in(label: str) -> str:
    """What a network has by the short form of its placement, as a title says it.

    >>> attention_in("all:16"), attention_in("stage1=eca,stage2=8")
    ('Squeeze-and-Excitation', 'ECA and SE')
    """
    kinds = kinds_in(label)
    return "Squeeze-and-Excitation" if kinds == ("SE",) else listed(kinds)


def _places(names: Sequence[str]) -> str:
    matches = [re.fullmatch(r"stage(\d+)", name) for name in names]
    if len(names) > 6:
        return f"{len(names)} places"
    if all(matches):
        return ("stages " if len(names) > 1 else "stage ") + listed([m[1] for m in matches if m])
    return listed(names)


def listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else " and ".join([", ".join(parts[:-1]), parts[-1]]) if parts else ""


ALONE, TOGETHER = "individual", "simultaneous"
"""What the intervals of a confirm are called that hold for one network, and those that hold for all at once."""


def counted(number: int, noun: str) -> str:
    """A number of things, in the grammatical number that it takes.

    >>> counted(1, "epoch"), counted(1_200, "training"), counted(0, "network")
    ('1 epoch', '1,200 trainings', '0 networks')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def few(trainings: int) -> str:
    """So many trainings, as the beginning of a sentence that says that they are too few.

    >>> few(1), few(8)
    ('1 training is', '8 trainings are')
    """
    return f"{counted(trainings, 'training')} {'is' if trainings == 1 else 'are'}"


def amount(value: float, unit: str, *, signed: bool = True, name: bool = True) -> str:
    """A difference of a metric: shares in points, others as plain numbers; with the name of the unit.

    >>> amount(0.0125, "share"), amount(-0.3, "nats", signed=False), amount(0.02, "share", name=False)
    ('+1.25 points', '-0.3 nats', '+2.00')
    """
    sign = "+" if signed else ""
    if unit == "share":
        return f"{100 * value:{sign}.2f}" + (" points" if name else "")
    return f"{value:{sign}.4g}" + (f" {unit}" if unit and name else "")


def gain_end(value: float, unit: str) -> str:
    """An end of an interval of a gain; exactly 0 is the point mass that the model has at "no effect".

    >>> gain_end(0.0072, "share"), gain_end(0.0, "share"), gain_end(-0.3, "nats")
    ('+0.72', 'no effect', '-0.3')
    """
    return "no effect" if value == 0 else amount(value, unit, name=False)


def gain_span(low: float, high: float, unit: str) -> str:
    """An interval of gains.

    >>> gain_span(-0.003, 0.0072, "share"), gain_span(0.0, 0.0072, "share"), gain_span(0.0, 0.0, "")
    ('-0.30 to +0.72', 'no effect to +0.72', 'no effect')
    """
    return " to ".join(dict.fromkeys([gain_end(low, unit), gain_end(high, unit)]))


def percents(*shares: float) -> tuple[int, ...]:
    """Shares that add up to 1 as whole percents that add up to 100: the largest remainders are rounded up.

    >>> percents(0.333, 0.333, 0.334), percents(0.005, 0.99, 0.005), percents(1, 0, 0)
    ((33, 33, 34), (1, 99, 0), (100, 0, 0))
    """
    exact = [100 * share for share in shares]
    whole = [math.floor(value) for value in exact]
    order = sorted(range(len(exact)), key=lambda i: (whole[i] - exact[i], i))
    for i in order[: 100 - sum(whole)]:
        whole[i] += 1
    return tuple(whole)


CHANCES = ("better", "no relevant difference", "worse")
"""What the three chances against a level of comparison are called: by more than the margin, by no more, by more."""


CHANCES_HEAD = "better / same / worse"
"""The head of a column of `chances_cell`."""


def chances_note(margin: float, unit: str, *, against: str = "no SE") -> str:
    """What stands below a table with `CHANCES_HEAD`.

    >>> chances_note(0.003, "share")
    'better / same / worse: probability of gaining over 0.30 points against no SE, of differing by less, of losing more'
    """
    by = amount(margin, unit, signed=False)
    return f"{CHANCES_HEAD}: probability of gaining over {by} against {against}, of differing by less, of losing more"


def chances_cell(better: float | None, same: float | None, worse: float | None) -> str:
    """The three chances as a cell of a table, empty where they are not known.

    >>> chances_cell(0.314, 0.62, 0.066), chances_cell(None, None, None)
    ('31 / 62 / 7 %', '')
    """
    if better is None or same is None or worse is None or math.isnan(better):
        return ""
    return " / ".join(map(str, percents(better, same, worse))) + " %"


def chances_text(better: float, same: float, worse: float) -> str:
    """The three chances in words.

    >>> chances_text(0.314, 0.62, 0.066)
    'better 31 %, no relevant difference 62 %, worse 7 %'
    """
    return ", ".join(f"{name} {n} %" for name, n in zip(CHANCES, percents(better, same, worse), strict=True))


def level_of(value: float, unit: str) -> str:
    """A value of a metric: shares in percent."""
    return f"{100 * value:.2f} %" if unit == "share" else f"{value:.4g} {unit}".rstrip()


def levels_of(low: float, high: float, unit: str) -> str:
    """An interval of values of a metric, with its unit once.

    >>> levels_of(0.67, 0.765, "share"), levels_of(0.4, 0.5, "nats")
    ('67.00 to 76.50 %', '0.4 to 0.5 nats')
    """
    shown = level_of(low, unit).removesuffix("%" if unit == "share" else unit).rstrip()
    return f"{shown} to {level_of(high, unit)}"


def within(low: float, high: float, unit: str) -> tuple[float, float]:
    """An interval of values of a metric; of shares it ends at 0 and 1.

    >>> within(0.9, 1.02, "share"), within(0.9, 1.02, "nats")
    ((0.9, 1.0), (0.9, 1.02))
    """
    return (max(low, 0.0), min(high, 1.0)) if unit == "share" else (low, high)


def trial_name(number: int | None, phase: str = "search") -> str:
    """A training by its number: a search and its confirm count each for themselves.

    >>> trial_name(2), trial_name(2, "confirm")
    ('trial 2', 'trial 2 of the confirm')
    """
    return f"trial {number}" + (" of the confirm" if phase == "confirm" else "")


REFERENCES = {"baseline": "no SE", "reference": "SE everywhere at r=16", "given": "the network as given"}
"""Role -> what the reference point is called."""


def reference_name(role: str, label: str) -> str:
    """What a trial with a role is called; its placement where r=16 leaves no hidden channel.

    >>> reference_name("reference", "all:16")
    'SE everywhere at r=16'
    >>> reference_name("reference", "stage1=8,stage2=16")
    'SE everywhere (stage1=8, stage2=16)'
    """
    if role == "reference" and set(re.findall(r"[=:](\d+)", label)) - {"16"}:
        return f"SE everywhere ({', '.join(re.split(', *', label))})"
    return REFERENCES.get(role, role)


def cost_name(name: str) -> str:
    """A cost as a head or an axis says it."""
    return cost_facts(name).head


def scale_of(unit: str) -> tuple[float, str, str]:
    """How a metric is shown: factor, unit of values, unit of differences."""
    return (100.0, "%", "points") if unit == "share" else (1.0, unit, unit)


def cost_with_unit(name: str) -> str:
    """A cost by its name, with what it is counted in where the name does not say so.

    >>> cost_with_unit("latency"), cost_with_unit("params")
    ('latency (ms)', 'params')
    """
    facts = cost_facts(name)
    return f"{name} ({facts.unit})" if facts.unit and not facts.whole else name


def cost_text(value: float, name: str) -> str:
    """A cost as text: counts in full, others with five digits."""
    if value is None or not math.isfinite(value):
        return ""
    return f"{int(value):,}" if cost_facts(name).whole else f"{value:.5g}"


def costs_text(costs: Mapping[str, float]) -> str:
    """The costs of a network as the end of a sentence; of multiply-adds only the FLOPs.

    >>> costs_text({"params": 78266, "macs": 764900, "gflops": 0.0007649, "activations": 9, "latency": 0.384})
    '78,266 parameters, 0.7649 MFLOPs, latency 0.384 ms'
    """
    words = []
    for name, value in costs.items():
        facts = cost_facts(name)
        if name == "gflops":
            unit, (flops,) = flops_told_apart([value])
            words.append(f"{flops} {unit}")
        elif name == "params":
            words.append(f"{cost_text(value, name)} {facts.word}")
        elif name not in EXACT:
            words.append(f"{facts.word} {cost_text(value, name)} {facts.unit}".rstrip())
    return ", ".join(words)


def flops_told_apart(gflops: Sequence[float]) -> tuple[str, list[str]]:
    """GFLOPs or MFLOPs, and each value in it with four digits, or with up to seven where that tells all of them apart.

    >>> flops_told_apart([0.002533, 0.002541]), flops_told_apart([4.089184, 4.08925])
    (('MFLOPs', ['2.533', '2.541']), ('GFLOPs', ['4.08918', '4.08925']))
    >>> flops_told_apart([0.0025]), flops_told_apart([])
    (('MFLOPs', ['2.500']), ('GFLOPs', []))
    """
    largest = max(map(abs, gflops), default=0.0)
    unit, factor = next(
        ((unit, factor) for unit, factor in _FLOPS if largest * factor >= 1), _FLOPS[-1 if largest else 0]
    )
    values = [value * factor for value in gflops]
    before = math.floor(math.log10(largest * factor)) + 1 if largest else 1
    for places in range(max(0, 4 - before), max(0, 7 - before) + 1):
        texts = [f"{value:,.{places}f}" for value in values]
        if len(set(texts)) == len(set(values)):
            break
    return unit, texts


_FLOPS = (("GFLOPs", 1.0), ("MFLOPs", 1e3))
"""Unit and how many of it are one GFLOPs, largest first."""


def level_text(setting: str, level: str) -> str:
    """A level in words: ``r = 16``, ``any r``, ``position: pre``."""
    if setting != "reduction":
        return f"{setting}: {level}"
    return "any r" if level == ANY else f"r = {level}" if level[:1].isdigit() else level


def duration(seconds: float) -> str:
    """A time as one says it.

    >>> duration(7.6), duration(192), duration(7_500)
    ('8 s', '3 min 12 s', '2 h 05 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def size_text(number: float) -> str:
    """Bytes as one says them.

    >>> size_text(3_200), size_text(61.4 * 2**20), size_text(5 * 2**30), size_text(float("nan"))
    ('0.0 MiB', '61 MiB', '5.0 GiB', 'not known')
    """
    if not math.isfinite(number):
        return "not known"
    mib = number / 2**20
    return f"{mib / 1024:,.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB" if mib >= 10 else f"{mib:.1f} MiB"
