"""What a checker can watch. It overrides the hooks that it needs; the others cost nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from mypy_extensions import mypyc_attr

from twin.policy.vocabulary import Action, ActionResult

if TYPE_CHECKING:
    from twin.sim.flight import Flight
    from twin.sim.simulation import Simulation

HOOKS = (
    "on_admitted",
    "on_dispatch",
    "on_served",
    "on_request_end",
    "on_action",
    "on_action_result",
    "on_sample",
    "at_end",
)


@mypyc_attr(allow_interpreted_subclasses=True)
class Checker:
    """One invariant."""

    name: ClassVar[str]
    needs_settling: ClassVar[bool] = False
    """Liveness: it holds only of a run that goes on after its faults until all is well again (`settle_s`)."""

    def __init__(self) -> None:
        self.violations = 0
        self.first = ""  # the first violation, in words

    def violated(self, now: float, what: str) -> None:
        """Count a violation."""
        self.violations += 1
        if not self.first:
            self.first = f"at {now:.3f} s: {what}"

    def on_admitted(self, now: float, flight: Flight) -> None:
        """A request was admitted."""

    def on_dispatch(self, now: float, flight: Flight, simulation: Simulation) -> None:
        """An attempt goes to `flight.node`."""

    def on_served(self, now: float, flight: Flight, simulation: Simulation) -> None:
        """A terminal record arrived from `flight.node`."""

    def on_request_end(self, now: float, flight: Flight, outcome: str) -> None:
        """An admitted request ended."""

    def on_action(self, now: float, action: Action, simulation: Simulation, gateway: str) -> None:
        """The policy of a gateway ordered an action that is about to be performed."""

    def on_action_result(self, now: float, result: ActionResult, gateway: str) -> None:
        """The policy of a gateway is about to be told what became of an action."""

    def on_sample(self, now: float, simulation: Simulation) -> None:
        """The nodes were sampled."""

    def at_end(self, now: float, simulation: Simulation) -> None:
        """The run is over."""
