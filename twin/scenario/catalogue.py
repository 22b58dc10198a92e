"""What there is to choose from, as rows for tables: `ollamamax catalogue`, and the documentation."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel

from twin.policy.parameters import PRESETS, TABLE
from twin.record.names import EXPECTABLE, FIGURES, SUMMARIES
from twin.scenario.faults import FAULT_KINDS
from twin.scenario.faults.base import Fault
from twin.scenario.workload import Arrivals, Length


def rows(what: str) -> list[dict[str, Any]]:
    """The rows of one catalogue."""
    return {
        "faults": _faults,
        "workloads": _workloads,
        "policies": _policies,
        "parameters": _parameters,
        "metrics": _metrics,
    }[what]()


def _faults() -> list[dict[str, Any]]:
    return [
        {
            "kind": kind,
            "id": fault.about.identifier,
            "what": fault.about.what,
            "parameters": _fields(fault, set(Fault.model_fields) | {"kind"}),
            "symptom": fault.about.symptom,
            "precursor": fault.about.precursor,
            "live": fault.about.live,
            "source": fault.about.source,
        }
        for kind, fault in FAULT_KINDS.items()
    ]


def _fields(model: type[BaseModel], known: set[str]) -> str:
    """The fields of a model with their defaults, but those of `known`."""
    parts = []
    for name, field in model.model_fields.items():
        if name not in known:
            parts.append(name if field.is_required() else f"{name}={field.default}")
    return ", ".join(parts)


def _workloads() -> list[dict[str, Any]]:
    found = []
    for use, union in (("arrivals", Arrivals), ("prompt_tokens, output_tokens", Length)):
        for model in get_args(get_args(union)[0]):
            kind = get_args(model.model_fields["kind"].annotation)[0]
            found.append({"use": use, "kind": kind, "parameters": _fields(model, {"kind"}), "what": _sentence(model)})
    return found


def _sentence(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _policies() -> list[dict[str, Any]]:
    says = {
        "none": "a plain proxy: nodes in turn, no health, no second try",
        "reactive": "a well-kept generic proxy: least busy, breaker, liveness check, one retry before the first byte",
        "default": "everything on: probes, verified healing, streams that go on elsewhere, replicas kept",
    }
    return [
        {
            "preset": name,
            "what": says[name],
            "differs in": ", ".join(f"{key}={value}" for key, value in changes.items()) or "nothing",
        }
        for name, changes in PRESETS.items()
    ]


def _parameters() -> list[dict[str, Any]]:
    return [
        {
            "key": p.key,
            "default": p.default,
            "bounds": ", ".join(p.choices) if p.choices else ("" if p.low is None else f"{p.low:g} to {p.high:g}"),
            "unit": p.unit,
            "also known as": p.alias,
            "what": p.sentence,
        }
        for p in TABLE
    ]


def _metrics() -> list[dict[str, Any]]:
    found = []
    for name, (unit, what) in FIGURES.items():
        limits = [name] if name in EXPECTABLE else sorted(each for each in EXPECTABLE if each.startswith(f"{name}."))
        found.append({"name": name, "unit": unit, "what": what, "in expect": ", ".join(limits) or "no"})
    assert set(SUMMARIES) <= set(FIGURES)
    return found
