"""The costs that every search knows, in one table: what they are called, counted in, and whether they are exact."""

from __future__ import annotations

from dataclasses import dataclass, replace

from se_nas.core.latency_names import LATENCY, RUNTIMES, is_latency, runtime_of


@dataclass(frozen=True, kw_only=True)
class CostFacts:
    """One cost; those that are not exact are measured on few placements and predicted for the others."""

    name: str
    """Its name in options, tables and records."""
    head: str
    """As the head of a column or an axis says it."""
    word: str
    """As it is called in sentences."""
    unit: str
    whole: bool = False
    """Whether it is a count, which is shown in full and needs no unit."""
    exact: bool = True


COSTS: dict[str, CostFacts] = {
    facts.name: facts
    for facts in (
        CostFacts(name="gflops", head="GFLOPs", word="GFLOPs", unit="10^9 MACs"),
        CostFacts(name="macs", head="multiply-adds", word="MACs", unit="MACs", whole=True),
        CostFacts(name="params", head="parameters", word="parameters", unit="parameters", whole=True),
        CostFacts(name="activations", head="activations", word="activations", unit="elements", whole=True),
        CostFacts(name="latency", head="latency (ms)", word="latency", unit="ms", exact=False),
        CostFacts(name="memory", head="peak memory (MiB)", word="memory", unit="MiB", exact=False),
    )
}
"""By name. Each can be a limit, and a cost axis of the front."""

EXACT = tuple(name for name, facts in COSTS.items() if facts.exact)
MEASURED = tuple(name for name, facts in COSTS.items() if not facts.exact)

SHOWN = ("params", "gflops", "latency", "memory")
"""The costs that every report shows where it has them, in this order."""


def cost_facts(name: str) -> CostFacts:
    """The facts of a cost by name; a user's own cost is called by its name, and has no unit that is known here.

    >>> cost_facts("latency@onnxruntime").head, cost_facts("latency@pixel8").word
    ('latency in ONNX Runtime (ms)', 'latency on pixel8')
    """
    if name != LATENCY and is_latency(name):
        runtime = runtime_of(name)
        word = f"latency in {RUNTIMES[runtime]}" if runtime in RUNTIMES else f"latency on {runtime}"
        return replace(COSTS[LATENCY], name=name, head=f"{word} (ms)", word=word)
    return COSTS.get(name) or CostFacts(name=name, head=name, word=name, unit="")
