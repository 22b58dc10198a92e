"""What every remedy says of itself: what it may mend, what it does, how long that takes, and what it costs.

A remedy decides nothing and remembers nothing. `twin.policy.choice` weighs those that are possible against each other,
the healer carries the chosen one out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from mypy_extensions import mypyc_attr

from twin.policy.health import ROUTABLE
from twin.policy.parameters import HealerParameters
from twin.policy.views import ClusterView, NodeView, Replica
from twin.policy.vocabulary import BOOKKEEPING_ACTIONS, NEVER_S, ActionKind

BROKEN_SHARE: Final = 0.5
"""Assumption: a request that is broken in mid-stream and goes on elsewhere costs half of one, what was generated."""

SHORT_SHARE: Final = 0.1
"""GPU memory of which less than this share is free is short."""


@dataclass(frozen=True, slots=True)
class Prior:
    """How often a remedy is believed to help before any outcome has been seen, and who says so."""

    success: float
    source: str = "assumption"


@dataclass(frozen=True, slots=True)
class About:
    """What a remedy is. `mends`: diagnosis, or failure class of a forecast, to how often it helps."""

    name: str
    action: ActionKind
    what: str
    mends: Mapping[str, Prior] = field(default_factory=dict)
    hard: bool = True  # it can cost running work: caps, cooldowns, floors and budgets hold for it
    drains: bool = True  # a node that still serves is set aside first
    patient: bool = False  # before a failure it waits for a time of low load, as long as there is time


class Case:
    """A node that fails, or is expected to, and what is known of it."""

    __slots__ = (
        "ailment",
        "certainty",
        "free_gib",
        "harm",
        "load_s",
        "node",
        "rate_rps",
        "restart_s",
        "serves",
        "tried",
        "view",
    )

    def __init__(
        self,
        view: ClusterView,
        node: NodeView,
        ailment: str,
        certainty: float,
        harm: float,
        rate_rps: float,
        load_s: float,
        restart_s: float,
        tried: dict[str, int],
        free_gib: float = math.nan,
    ) -> None:
        self.view = view
        self.node = node
        self.ailment = ailment  # a diagnosis, or the failure class of a forecast
        self.certainty = certainty  # probability that it is so, or will be
        self.harm = harm  # requests that are lost to it if nothing is done
        self.rate_rps = rate_rps  # requests that the node serves, or would
        self.load_s = load_s  # what the load of a model takes here, of late
        self.restart_s = restart_s  # likewise a restart
        self.serves = node.health in ROUTABLE or node.health == "drained"
        self.free_gib = free_gib  # GPU memory that nobody uses, as its machine says; nan: not known
        self.tried = tried  # remedies that did not help in this incident, and how often

    def memory_is_short(self, replica: Replica) -> bool:
        """Whether the machine says that its GPU has little room left once this replica is loaded."""
        left_gib = self.free_gib - (0.0 if replica.resident else replica.model.memory_gib)
        return left_gib < SHORT_SHARE * self.node.spec.vram_gib < NEVER_S


@mypyc_attr(allow_interpreted_subclasses=True)
class Remedy:
    """One thing that can be done to a node."""

    def __init__(self, about: About) -> None:
        self.about = about
        self.name: str = about.name

    def allowed(self, parameters: HealerParameters) -> bool:
        """Whether the operator has this one switched on."""
        raise NotImplementedError

    def has_hand(self, node: NodeView) -> bool:
        """Whether somebody can do it at this node."""
        return self.about.action in BOOKKEEPING_ACTIONS or self.about.action in node.hands

    def model(self, case: Case) -> str | None:
        """The model that it is done to; empty: to the whole node; None: it is not possible here."""
        return ""

    def takes_s(self, case: Case) -> float:
        """From the order until the node serves as before."""
        raise NotImplementedError

    def timeout_s(self, takes_s: float, parameters: HealerParameters) -> float:
        """Longest wait for the result of its action."""
        return parameters.action_timeout_s

    def cost(self, case: Case) -> float:
        """Requests that are lost by doing it: those that it breaks, and those that the node would have served meanwhile."""
        broken = 0.0 if self.about.drains and case.serves else BROKEN_SHARE * case.node.in_flight
        return broken + case.rate_rps * self.takes_s(case)
