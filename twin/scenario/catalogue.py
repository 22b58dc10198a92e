"""What there is to choose from, as rows for tables: `ollamamax catalogue`, and the documentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from twin.policy.parameters import PRESETS, TABLE
from twin.record.names import BETTER, EXPECTABLE, FIGURES, SUMMARIES
from twin.scenario.conditions import CONDITIONS
from twin.scenario.durations import Duration
from twin.scenario.faults import FAULT_KINDS
from twin.scenario.faults.base import Fault
from twin.scenario.models import MODELS
from twin.scenario.profiles import PROFILES
from twin.scenario.profiles import TABLE as TABLE_OF_PROFILES
from twin.scenario.workload import Arrivals, Length

TESTS = Path(__file__).parents[2] / "tests" / "sim"
"""Where the kinds are proved; an installation has no tests."""

FAILURE_ROWS: tuple[str, ...] = (*(f"F{number:02}" for number in range(1, 32)), "G01", "G02")
"""The rows of the failure catalogue: 31 failures of an Ollama node, two of a gateway."""


def covered() -> set[str]:
    """The rows of the failure catalogue for which there is a fault kind."""
    return {fault.about.identifier for fault in FAULT_KINDS.values()}


def coverage() -> str:
    """How much of the failure catalogue the fault kinds cover, in one line."""
    missing = [row for row in FAILURE_ROWS if row not in covered()]
    line = f"{len(FAILURE_ROWS) - len(missing)} of {len(FAILURE_ROWS)} rows of the failure catalogue are covered"
    line = f"{line}; missing: {', '.join(missing)}" if missing else line
    if not TESTS.is_dir():
        return line
    proved = sum(bool(proof(kind)) for kind in FAULT_KINDS)
    return f"{line}; {proved} of {len(FAULT_KINDS)} kinds have a test"


def rows(what: str) -> list[dict[str, Any]]:
    """The rows of one catalogue."""
    return {
        "faults": _faults,
        "workloads": _workloads,
        "policies": _policies,
        "parameters": _parameters,
        "metrics": _metrics,
        "hardware": _hardware,
        "models": _models,
        "conditions": _conditions,
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
            "source": fault.about.source,
            "live": _live(fault),
            "test": proof(kind),
        }
        for kind, fault in FAULT_KINDS.items()
    ]


def proof(kind: str) -> str:
    """The test that proves a fault kind, where the tests are here: the file of its name, or the test named after it."""
    mirror = TESTS / "faults" / f"test_{kind}.py"
    if mirror.is_file():
        return str(mirror.relative_to(TESTS.parents[1]))
    shared = TESTS / "test_faults.py"
    if shared.is_file():
        for test in re.finditer(
            rf"^def (test_{kind}_\w+)\(.*?(?=^def |\Z)", shared.read_text(encoding="utf-8"), re.M | re.S
        ):
            if f'"kind": "{kind}"' in test[0]:
                return f"{shared.relative_to(TESTS.parents[1])}::{test[1]}"
    return ""


def _live(fault: type[Fault]) -> str:
    """Where a fault can be done, and how to a real node."""
    if fault.about.live:
        return f"real and emulated nodes: {fault.about.live}"
    return "emulated nodes" if fault.about.part == "node" and not fault.about.twin_only else "twin only"


def _fields(model: type[BaseModel], known: set[str]) -> str:
    """The fields of a model with their defaults, but those of `known`."""
    parts = []
    for name, field in model.model_fields.items():
        if name not in known:
            parts.append(name if field.is_required() else f"{name}={field.default}")
    return ", ".join(parts)


def _workloads() -> list[dict[str, Any]]:
    found = []
    for use, union in (("arrivals", Arrivals), ("prompt_tokens, output_tokens", Length), ("durations", Duration)):
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
        better = BETTER.get(limits[0], "") if limits else ""
        found.append(
            {"name": name, "unit": unit, "what": what, "better": better, "in expect": ", ".join(limits) or "no"}
        )
    assert set(SUMMARIES) <= set(FIGURES)
    return found


def _hardware() -> list[dict[str, Any]]:
    return [
        {
            "profile": name,
            "GiB": line.vram_gib,
            "tokens/s": round(1000.0 / PROFILES[name].decode_ms[0], 1),
            "tokens/s of 4": round(4000.0 / PROFILES[name].decode_ms[3], 1),
            "prefill/s": round(PROFILES[name].prefill_tokens_per_s or 0.0),
            "GB/s": line.bandwidth_gb_per_s,
            "W": line.full_w,
            "offloaded": f"{PROFILES[name].cpu_slowdown:g} times",
            "source": line.source,
        }
        for name, line in TABLE_OF_PROFILES.items()
    ]


def _models() -> list[dict[str, Any]]:
    return [
        {
            "model": name,
            "weights, GiB": model.size_gib,
            "layers x kv heads x head size": f"{model.layers} x {model.kv_heads} x {model.head_size}",
            "KV cache, MiB per 1,000 tokens": round(model.kv_mib_per_1k_tokens, 1),
            "context, tokens": model.context_tokens,
            "slots": model.parallel or "as set",
            "makes": "embeddings" if model.embedding else "text",
            "assumed": "yes" if model.assumed else "no",
        }
        for name, model in MODELS.items()
    ]


def _conditions() -> list[dict[str, Any]]:
    return [
        {"condition": name, "neutral": row.neutral, "of several": row.combine, "what": row.what, "read by": row.read_by}
        for name, row in CONDITIONS.items()
    ]
