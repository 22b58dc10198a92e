"""The reference page of the documentation, made from the tables that the code itself uses (`make docs`)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from twin.policy import adaptation, health, incidents
from twin.policy.remedies import all_remedies
from twin.scenario.catalogue import coverage, rows

HEADINGS = {
    "faults": ("Faults", "What a scenario can do to a node or its network. `id` is the row of the failure catalogue."),
    "workloads": ("Workloads", "How requests arrive, and how long they are."),
    "policies": ("Policies", "The presets, from doing nothing to everything on."),
    "parameters": (
        "Parameters",
        "Keys below `policy.overrides` of a scenario, `--set policy.KEY=...`, and `policy:` of a configuration.",
    ),
    "metrics": ("Figures", "What `run --json` prints, and what `expect` may limit."),
    "hardware": (
        "Hardware",
        "Machines by name: memory for models, speed with an 8B model at four bits (one sequence, four together, prefill), "
        "memory bandwidth, full power, and how many times as long layers in main memory take. "
        "`twin/scenario/profiles.py` says what the sources are.",
    ),
    "models": ("Models", "Models whose size and KV cache are known; of others a scenario gives them."),
    "conditions": ("Conditions", "What faults may set in a simulated node, and the mechanism that reads it."),
}


REMEDIES = (
    "What the healer may do about a failure, or a failure that is foretold: how often it is believed to help before any "
    "outcome has been seen. `hard`: it can cost running work, so caps, floors, cooldowns and budgets hold for it."
)


def _remedies() -> list[dict[str, Any]]:
    return [
        {
            "remedy": remedy.name,
            "what": remedy.about.what,
            "hard": remedy.about.hard,
            "may mend": "; ".join(
                f"{ailment} {prior.success:g} ({prior.source})" for ailment, prior in remedy.about.mends.items()
            ),
        }
        for remedy in all_remedies()
    ]


def reference() -> str:
    """The page as Markdown."""
    parts = ["# Reference", "", "Made by `make docs` from the tables in the code. Do not edit.", ""]
    for what, (title, sentence) in HEADINGS.items():
        parts += [f"## {title}", "", sentence, "", *_table(rows(what)), ""]
        if what == "faults":
            parts += [f"{coverage()}.", ""]
    parts += ["## Remedies", "", REMEDIES, "", *_table(_remedies()), ""]
    parts += ["## State machines", "", "### Health of a node", "", *_diagram(health.TRANSITIONS), ""]
    parts += ["### An incident", "", *_diagram(incidents.TRANSITIONS), ""]
    parts += ["### Adaptation of settings", "", *_diagram(adaptation.TRANSITIONS), ""]
    return "\n".join(parts)


def _table(entries: list[dict[str, Any]]) -> Iterable[str]:
    names = list(entries[0])
    yield "| " + " | ".join(names) + " |"
    yield "|" + "---|" * len(names)
    for entry in entries:
        yield "| " + " | ".join(_cell(value) for value in entry.values()) + " |"


def _cell(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text.replace("|", "\\|")


def _diagram(transitions: Mapping[tuple[Any, Any], Any]) -> Iterable[str]:
    yield "```mermaid"
    yield "stateDiagram-v2"
    for (before, event), after in transitions.items():
        yield f"    {before} --> {after}: {event}"
    yield "```"


if __name__ == "__main__":
    sys.stdout.write(reference())
