"""Units of one module class: each of its modules has one, as its siblings have.

A block whose input and output differ in size often has no skip, so that no rule for sums finds it; and a block may
hold two parts that would be units elsewhere. What the other modules of the class are decides.
"""

from __future__ import annotations

from dataclasses import replace

from se_nas.insertion.flow import Carrier, Flow, inner

STRONG = frozenset(("residual", "shuffle", "inception", "aggregation", "linear sum"))
"""Kinds that make the class of the module around them one of blocks."""


def one_in_each(flow: Flow, carriers: list[Carrier]) -> list[Carrier]:
    """The carriers with those of siblings added, and only the module's own where one holds several."""
    kept = list(carriers)
    for call in _calls(flow, carriers):
        nodes = frozenset(flow.graph.inside.get(call, ()))
        own = _own(flow, kept).get(call, [])
        within = [c for c in kept if c not in own and (c.join in nodes or (c.kind == "depthwise" and c.region & nodes))]
        if own:
            drop = [c for c in within if c.kind in ("linear sum", "depthwise", "chain")]
            kept = [c for c in kept if c not in drop and c is not own[0]]
            kept.append(replace(own[0], region=own[0].region | nodes))
        elif not any(c.kind in STRONG or c.kind in ("cell", "dense") for c in within):
            taken = frozenset[int]().union(*(c.region for c in kept if c not in within))
            if (sibling := _sibling(flow, nodes, within)) is not None and not sibling.region & taken:
                kept = [c for c in kept if c not in within] + [sibling]
    return kept


def _calls(flow: Flow, carriers: list[Carrier]) -> list[int]:
    """Calls of the modules whose class is one of blocks, the outermost of those that lie in one another."""
    calls = flow.graph.calls
    homes = _own(flow, carriers)
    single = {calls[call].kind for call, own in homes.items() if len(own) == 1}
    several = {calls[call].kind for call, own in homes.items() if len(own) > 1}
    kinds = {kind for kind in single - several if kind is not None and not kind.__module__.startswith("torch.nn.")}
    found = [call.index for call in calls if call.kind in kinds and call.path]
    return [call for call in found if not any(other in found for other in flow.graph.stack(call)[1:])]


def _own(flow: Flow, carriers: list[Carrier]) -> dict[int, list[Carrier]]:
    """Carriers by the innermost call that holds them, sums of parallel convolutions only where there is nothing else.

    Such a sum is a part of a block where there is another one in the same module, as in RepViT.
    """
    own: dict[int, list[Carrier]] = {}
    for carrier in carriers:
        if carrier.kind in STRONG:
            own.setdefault(flow.graph.common_call(carrier.region), []).append(carrier)
    return {call: [c for c in cs if c.kind != "linear sum"] or cs for call, cs in own.items()}


def _sibling(flow: Flow, nodes: frozenset[int], within: list[Carrier]) -> Carrier | None:
    """A unit at the end of the last convolution of a module; None if it has none, or ends without a map."""
    convolutions = flow.convolutions(nodes)
    if not convolutions:
        return None
    last = convolutions[-1]
    if within and any(last.index in c.region and c.kind == "depthwise" for c in within):
        return next(c for c in within if last.index in c.region)
    value = flow.after_norm(last.outputs[0])
    if not 3 <= len(flow.shape(value)) <= 5 or value in flow.pooled:
        return None
    return Carrier("residual", nodes, {"standard": (flow.tap(value),), **inner(flow, nodes)}, max(nodes))
