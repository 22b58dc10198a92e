"""The health of a node, as a table. The documentation draws its picture from `TRANSITIONS`."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Health: TypeAlias = Literal[
    "serving",  # gets traffic
    "suspect",  # something failed; probes are out; traffic only where nobody else can take it
    "down",  # confirmed: gets nothing, has an incident
    "proving",  # an independent generation passed after the incident; gets traffic, must hold
    "drained",  # set aside by an operator or for a repair
]

HealthEvent: TypeAlias = Literal[
    "failed",  # a request or a probe failed in a way that speaks of the node
    "confirmed",  # a second, independent sign: it is a failure
    "passed",  # a generation came through
    "held",  # ... and it went on working
    "drain",
    "return",
]

TRANSITIONS: Final[dict[tuple[Health, HealthEvent], Health]] = {
    ("serving", "failed"): "suspect",
    ("serving", "confirmed"): "down",
    ("serving", "drain"): "drained",
    ("suspect", "passed"): "serving",
    ("suspect", "confirmed"): "down",
    ("suspect", "drain"): "drained",
    ("down", "passed"): "proving",
    ("down", "drain"): "drained",
    ("proving", "failed"): "suspect",
    ("proving", "confirmed"): "down",
    ("proving", "held"): "serving",
    ("proving", "drain"): "drained",
    ("drained", "return"): "suspect",
}
"""What is not listed changes nothing."""

ROUTABLE: Final[frozenset[Health]] = frozenset({"serving", "proving"})

HOPEFUL: frozenset[Health] = ROUTABLE | {"suspect"}
"""Nodes that may serve in a moment."""


def after(health: Health, event: HealthEvent) -> Health:
    """The health that follows."""
    return TRANSITIONS.get((health, event), health)
