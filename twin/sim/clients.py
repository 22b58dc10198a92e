"""The clients: where requests come from, and what becomes of a client when its request ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from twin.policy.model_names import other_name
from twin.policy.vocabulary import RequestSpec
from twin.scenario.draws import Arrival, arrivals, stream
from twin.sim.answers import Share
from twin.sim.flight import Flight

if TYPE_CHECKING:
    from twin.sim.gateway import Gateway
    from twin.sim.simulation import Simulation


class Clients:
    """Offers the workload's requests in order of arrival, to the gateways in turn; which is the first is drawn.

    Clients reach every gateway: what is between them and it is not modelled, and a client stays with its gateway.
    """

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.engine = simulation.engine
        self.requests = 0
        self._aliased = Share()
        self._deadline_s = simulation.scenario.workload.deadline_s
        self._arrivals: Iterator[Arrival] = iter(())
        self._next: Arrival | None = None
        self._gateways: list[Gateway] = []
        self._turn = 0

    def start(self) -> None:
        """Have the first request come at its time."""
        self._gateways = self.simulation.gateways
        if len(self._gateways) > 1:
            self._turn = int(stream(self.simulation.seed, "clients:gateway").integers(len(self._gateways)))
        self._arrivals = arrivals(self.simulation.scenario, self.simulation.seed)
        self._next = next(self._arrivals, None)
        if self._next is not None:
            self.engine.call_at(self._next.arrival_s, self._arrive)

    @property
    def done(self) -> bool:
        """Nobody is here, and nobody comes any more."""
        return self._next is None and not any(gateway.flights for gateway in self.simulation.gateways)

    def _arrive(self) -> None:
        arrival = self._next
        assert arrival is not None
        now = arrival.arrival_s
        self.requests += 1
        following = self._next = next(self._arrivals, None)
        if following is not None:
            self.engine.call_at(following.arrival_s, self._arrive)
        model = arrival.model
        if self.simulation.conditions.disturbed and self._aliased.takes(
            self.simulation.conditions.values["alias_share"]
        ):
            model = other_name(model)
        spec = RequestSpec(self.requests, model, arrival.prompt_tokens, arrival.stream, now, now + self._deadline_s)
        gateway = self._gateways[self._turn]
        self._turn = (self._turn + 1) % len(self._gateways)
        gateway.offer(now, Flight(spec, arrival.output_tokens))

    def ended(self, now: float, flight: Flight, outcome: str) -> None:
        """A request was answered for good, in whatever way."""
        if outcome != "rejected":
            self.simulation.abort.ended(now, outcome == "succeeded")
        if self._next is None:
            self.simulation.end_if_done()
