"""Which of several gateways may disturb nodes: a lease that one of them holds.

Every gateway has a policy and a view of its own, so two of them may find the same node failing and both restart it. With
`cluster.coordination: lease` an action that can cost running work is performed only for the gateway that holds the lease;
for another one it is refused at once (`no_lease`, which says nothing of the action), and its policy asks again later. The
lease is kept at the core of the network (as in a store with a majority there): its holder renews it while it reaches the
core. One that is cut off keeps it for `lease_s` and then, by its own clock, stops acting; the first gateway that reaches
the core has it from then on, and keeps it when the other comes back. With `none` every gateway acts as it likes.

Leases whose clocks disagree are not modelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from twin.policy.vocabulary import DISRUPTIVE_ACTIONS, NEVER_S, Action

if TYPE_CHECKING:
    from twin.sim.network import SimulatedNetwork


class Coordination:
    """The lease. It costs no event: who holds it is worked out when somebody asks, or the network changes."""

    def __init__(self, network: SimulatedNetwork, gateways: Sequence[str], kind: str, lease_s: float) -> None:
        self._network = network
        self._gateways = list(gateways)
        self._leased = kind == "lease" and len(self._gateways) > 1
        self._lease_s = lease_s
        self._holder = self._gateways[0]
        self._lapses_s = NEVER_S  # when the holder that is cut off loses it
        self._changed_s = 0.0  # when the network last changed
        self.handed_over: list[tuple[float, str]] = []  # when, to whom

    def holder_instead_of(self, gateway: str, action: Action, now: float) -> str:
        """Who holds the lease where this gateway may not act; empty where it may."""
        if not self._leased or action.advice or action.kind not in DISRUPTIVE_ACTIONS:
            return ""
        holder = self.holder(now)
        return "" if holder == gateway else holder or "nobody"

    def holder(self, now: float) -> str:
        """Who holds the lease; empty while nobody does."""
        if now >= self._lapses_s:
            there = [name for name in self._gateways if self._network.reaches_core(name)]
            if not there:
                return ""
            self._holder = there[0]
            self.handed_over.append((max(self._lapses_s, self._changed_s), self._holder))
            self._lapses_s = NEVER_S
        return self._holder

    def network_changes(self, now: float) -> None:
        """To be called before a change: what lapsed until now passes on by what the network was."""
        self.holder(now)

    def network_changed(self, now: float) -> None:
        """A change of the network: the holder renews its lease, or can no longer."""
        self._changed_s = now
        if self._network.reaches_core(self._holder):
            if now < self._lapses_s:
                self._lapses_s = NEVER_S
        elif self._lapses_s == NEVER_S:
            self._lapses_s = now + self._lease_s
