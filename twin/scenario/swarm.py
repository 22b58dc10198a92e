"""Swarm testing: each seed draws which kinds of faults there are at all, and then when, where, and how bad.

After Groce et al., Swarm Testing, ISSTA 2012: a run with a few kinds of trouble finds what one with all kinds hides.
"""

from __future__ import annotations

import math
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
import numpy as np
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from twin.scenario.draws import stream
from twin.scenario.faults import FAULT_KINDS
from twin.scenario.faults.base import Fault, Target
from twin.scenario.faults.rack_failure import RackFailure
from twin.scenario.generator_kinds import Swarm, fault_of
from twin.scenario.schema import Scenario
from twin.scenario.topology import Topology

SPREAD = 2.0
"""A parameter is drawn between its default over this and its default times this, evenly in the logarithm."""

PLACES_TRIED = 50
"""So often a fault is drawn anew where too many nodes would be down; then it is left out."""


def swarm(scenario: Scenario, it: Swarm, seed: int, name: str) -> list[Fault]:
    """The faults that this seed draws."""
    on, amount, when, where, lasts, how, shows = (
        stream(seed, f"{name}:{purpose}")
        for purpose in ("kinds", "count", "time", "node", "duration", "parameters", "signs")
    )
    topology = scenario.cluster.topology()
    kinds = list(it.kinds) if it.kinds is not None else list(FAULT_KINDS)
    if not topology.racks:
        kinds = [kind for kind in kinds if FAULT_KINDS[kind] is not RackFailure]
    lucky = on.random(len(kinds)).tolist()
    drawn = [kind for kind, luck in zip(kinds, lucky, strict=True) if luck < 0.5]
    drawn = drawn or [kinds[int(np.argmin(lucky))]]
    from_s = it.from_s if it.from_s is not None else scenario.workload.warmup_s
    until_s = min(it.until_s if it.until_s is not None else scenario.end_of_load_s, scenario.end_of_load_s)
    names = topology.nodes
    racks = list(topology.racks)
    found: list[Fault] = []
    for _ in range(int(amount.integers(it.faults.min, it.faults.max + 1))):
        kind = drawn[int(on.integers(len(drawn)))]
        template = {"kind": kind, **_parameters(FAULT_KINDS[kind], how)}
        signs = _signs(FAULT_KINDS[kind], it, shows)
        for _ in range(PLACES_TRIED):
            at_s = round(float(when.uniform(from_s, max(from_s, until_s))), 3)
            place = int(where.integers(len(names)))
            target: Target = names[place]
            if FAULT_KINDS[kind] is RackFailure:
                target = {"rack": racks[place % len(racks)]}
            lasts_s = max(0.001, round(float(it.duration.seconds(lasts, 1)[0]), 3))
            fault = _made(template, _before(signs, at_s), at_s, target, lasts_s)
            if at_s < until_s and _fits(topology, found, fault, it):
                found.append(fault)
                break
    return found


def _made(template: dict[str, Any], signs: dict[str, Any], at_s: float, target: Target, lasts_s: float) -> Fault:
    """The fault; without signs, or with its defaults, where what was drawn does not go together."""
    for document in (template | signs, template):
        try:
            return fault_of(document, at_s, target, lasts_s)
        except ValidationError:
            continue
    return fault_of({"kind": template["kind"]}, at_s, target, lasts_s)


def _signs(kind: type[Fault], it: Swarm, random: np.random.Generator) -> dict[str, Any]:
    """Whether, and how long before, a fault of the kind shows; and whether it comes at all."""
    shows, nothing = random.random(2).tolist()
    lead_s = round(float(it.lead.seconds(random, 1)[0]), 3)
    if not kind.has_signs() or shows >= it.signs_share or lead_s <= 0.0:
        return {}
    return {"lead_s": lead_s, "comes_to_nothing": nothing < it.look_alike_share}


def _before(signs: dict[str, Any], at_s: float) -> dict[str, Any]:
    """No sign begins before the run does."""
    return {**signs, "lead_s": min(signs["lead_s"], at_s)} if signs and at_s else {}


def policy_drawn(it: Swarm, seed: int, name: str) -> dict[str, Any]:
    """The value of each of the swarm's policy parameters for this seed, each from a stream of its own."""
    return {
        key: choices[int(stream(seed, f"{name}:policy:{key}").integers(len(choices)))]
        for key, choices in it.policy.items()
    }


def _struck(topology: Topology, fault: Fault) -> set[str]:
    """The nodes that it strikes; the part, where it is none."""
    if fault.about.part != "node":
        return {fault.about.part}
    return set(topology.racks[fault.target["rack"]]) if isinstance(fault.target, dict) else {fault.target}


def _fits(topology: Topology, found: list[Fault], fault: Fault, it: Swarm) -> bool:
    """Whether what it strikes is free, and not too many nodes are down at any time of the fault."""
    own = _struck(topology, fault)

    def until_s(one: Fault) -> float:
        return one.at_s + (one.duration_s or math.inf) + it.settle_s

    others = [one for one in found if one.at_s < until_s(fault) and fault.at_s < until_s(one)]
    if any(own & _struck(topology, one) for one in others):
        return False
    if fault.about.part != "node":
        return True
    nodes = [(one, len(_struck(topology, one))) for one in others if one.about.part == "node"]
    begins = [fault.at_s, *(one.at_s for one, _ in nodes if one.at_s > fault.at_s)]
    down = (sum(count for one, count in nodes if one.at_s <= begin_s < until_s(one)) for begin_s in begins)
    return all(count + len(own) <= it.at_most_down for count in down)


def _parameters(kind: type[Fault], random: np.random.Generator) -> dict[str, Any]:
    """Values for what the kind has beyond every fault; what cannot be drawn keeps its default."""
    found: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        if name in Fault.model_fields or name == "kind":
            continue
        luck = float(random.random())
        value = _value(field, luck)
        if value is not None:
            found[name] = value
    return found


def _value(field: FieldInfo, luck: float) -> Any:
    """A value for a field, by a draw in [0, 1); None: it keeps its default."""
    annotation = field.annotation
    if get_origin(annotation) in (Union, UnionType):
        plain = [each for each in get_args(annotation) if each is not type(None)]
        annotation = plain[0] if len(plain) == 1 else None
    if get_origin(annotation) is Literal:
        choices = get_args(annotation)
        return choices[int(luck * len(choices))]
    if annotation is bool:
        return luck < 0.5
    if annotation not in (int, float):
        return None
    low, high, above, below = -math.inf, math.inf, False, False
    for rule in field.metadata:
        if isinstance(rule, annotated_types.Ge):
            low = float(rule.ge)  # type: ignore[arg-type]  # of a number it is one
        elif isinstance(rule, annotated_types.Gt):
            low, above = float(rule.gt), True  # type: ignore[arg-type]
        elif isinstance(rule, annotated_types.Le):
            high = float(rule.le)  # type: ignore[arg-type]
        elif isinstance(rule, annotated_types.Lt):
            high, below = float(rule.lt), True  # type: ignore[arg-type]
    default = None if field.is_required() else field.default
    if default is None:
        if not (math.isfinite(low) and math.isfinite(high)):
            return None
        value = low + luck * (high - low)
    else:
        value = float(default) * SPREAD ** (2.0 * luck - 1.0)
    value = float(f"{min(max(value, low), high):.4g}")
    if (above and value <= low) or (below and value >= high) or not low <= value <= high:
        return None
    return round(value) if annotation is int else value
