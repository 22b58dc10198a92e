"""Once every request has ended, no policy counts one as being at a node: a count that is never given back is a slot lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twin.policy.router import REAP_PERIOD_S
from twin.policy.views import limit
from twin.sim.checkers.base import Checker

if TYPE_CHECKING:
    from twin.sim.simulation import Simulation


class CountsReturn(Checker):
    """Looks at the end at what each policy counts at each node."""

    name = "no_slot_is_lost"
    needs_settling = True

    def at_end(self, now: float, simulation: Simulation) -> None:
        """All counts are 0, but for ends that a gateway forgot so lately that they are not to be struck off yet."""
        if simulation.aborted or simulation.flights():
            return
        parameters = simulation.parameters
        # The policy looks for overdue attempts every so often, in the first of its turns after that.
        patience_s = limit(parameters.router.zombie_grace_s) + REAP_PERIOD_S + parameters.probes.period_s
        for gateway in simulation.gateways:
            if now <= gateway.forgot_s + patience_s:
                continue
            for name, known in gateway.policy.snapshot().parts["nodes"].items():
                if known["in_flight"]:
                    what = f"{gateway.name} counts {known['in_flight']} requests at {name}, and there are none"
                    self.violated(now, what)
