"""The clients: where requests come from, how patient they are, and what they ask next when a request has ended."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from twin.policy.model_names import other_name
from twin.policy.vocabulary import RequestSpec
from twin.scenario.contents import Arrival
from twin.scenario.draws import stream
from twin.sim.answers import Share
from twin.sim.engine import Timer
from twin.sim.flight import Flight

if TYPE_CHECKING:
    from twin.sim.gateway import Gateway
    from twin.sim.simulation import Simulation


class Clients(Timer):
    """Offers the workload's requests in order of arrival, to the gateways in turn; which is the first is drawn.

    Clients reach every gateway: what is between them and it is not modelled, and a client stays with its gateway.
    """

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.engine = simulation.engine
        self.requests = 0
        workload = simulation.scenario.workload
        self._demand = simulation.demand
        self._watched = self._demand.follows or workload.patience is not None
        self._aliased = Share()
        self._deadline_s = workload.deadline_s
        self._arrivals: Iterator[Arrival] = iter(())
        self._next: Arrival | None = None
        self._following = 0  # what is to come because something ended
        self._asked: dict[int, Arrival] = {}  # by request, where something may follow from its end
        self._gateways: list[Gateway] = []
        self._turn = 0

    def start(self) -> None:
        """Have the first request come at its time."""
        self._gateways = self.simulation.gateways
        if len(self._gateways) > 1:
            self._turn = int(stream(self.simulation.seed, "clients:gateway").integers(len(self._gateways)))
        self._arrivals = self._demand.openings()
        self._next = next(self._arrivals, None)
        if self._next is not None:
            self.engine.wake_at(self._next.arrival_s, self)

    @property
    def done(self) -> bool:
        """Nobody is here, and nobody comes any more."""
        nobody_comes = self._next is None and not self._following
        return nobody_comes and not any(gateway.flights for gateway in self.simulation.gateways)

    def fire(self) -> None:
        """The next request of the workload arrives."""
        arrival = self._next
        assert arrival is not None
        following = self._next = next(self._arrivals, None)
        if following is not None:
            self.engine.wake_at(following.arrival_s, self)
        flight = self._flight(arrival)
        if self._watched:
            self._send(arrival, flight)
        else:
            self._gateway().offer(arrival.arrival_s, flight)

    def _gateway(self) -> Gateway:
        """The next in turn."""
        gateway = self._gateways[self._turn]
        self._turn = (self._turn + 1) % len(self._gateways)
        return gateway

    def _flight(self, arrival: Arrival) -> Flight:
        now, model, prompt_tokens, output_tokens, streamed, context_tokens, session, shared_tokens, _, _, _ = arrival
        self.requests += 1
        if self.simulation.conditions.disturbed and self._aliased.takes(
            self.simulation.conditions.values["alias_share"]
        ):
            model = other_name(model)
        spec = RequestSpec(
            self.requests,
            model,
            prompt_tokens,
            streamed,
            now,
            now + self._deadline_s,
            context_tokens,
            session,
            sent_context_tokens=context_tokens,
        )
        flight = Flight(spec, output_tokens)
        if session:
            flight.shared_tokens = shared_tokens
        return flight

    def ended(self, now: float, flight: Flight, outcome: str) -> None:
        """A request was answered for good, in whatever way."""
        if outcome not in {"rejected", "cancelled"}:
            self.simulation.abort.ended(now, outcome == "succeeded")
        if self._watched and not self.simulation.aborted:
            self._follow(now, flight, outcome)
        if self._next is None:
            self.simulation.end_if_done()

    # -- clients that lose patience or come back -------------------------------------------------------------------

    def _send(self, arrival: Arrival, flight: Flight) -> None:
        """Offer a request of such a client."""
        now = arrival.arrival_s
        if self._demand.follows:
            self._asked[flight.spec.request_id] = arrival
        gateway = self._gateway()
        gateway.offer(now, flight)
        temper = arrival.temper
        if temper is None or flight.spec.request_id not in gateway.flights:  # turned away
            return
        for patience_s, until_end in (
            (temper.first_token_s[arrival.tries], False),
            (temper.end_s[arrival.tries], True),
        ):
            if patience_s < self._deadline_s:
                lose = partial(self._lose_patience, gateway, flight, until_end or not arrival.stream)
                self.engine.call_at(now + patience_s, lose)

    def _lose_patience(self, gateway: Gateway, flight: Flight, until_end: bool) -> None:
        if not flight.ended and (until_end or not gateway.has_first_token(flight)):
            gateway.cancel(flight)

    def _follow(self, now: float, flight: Flight, outcome: str) -> None:
        arrival = self._asked.pop(flight.spec.request_id, None)
        if arrival is None:
            return
        following = self._demand.following(arrival, now, outcome)
        if following is None:
            return
        retry_of = None
        if following.tries > arrival.tries:
            retry_of = flight.spec.request_id if flight.retry_of is None else flight.retry_of
        self._following += 1
        self.engine.call_at(following.arrival_s, partial(self._come_back, following, retry_of))

    def _come_back(self, arrival: Arrival, retry_of: int | None) -> None:
        self._following -= 1
        if self.simulation.aborted:
            return
        flight = self._flight(arrival)
        flight.retry_of = retry_of
        self._send(arrival, flight)
