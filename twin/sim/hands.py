"""Actions on the simulated nodes. Each gets exactly one result."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from twin.policy.vocabulary import BOOKKEEPING_ACTIONS, Action, ActionResult, ActionStatus, AttemptError
from twin.sim.runner import Job

if TYPE_CHECKING:
    from twin.sim.gateway import Gateway

UNREACHABLE_S: Final = 5.0
"""Time after which an order to an agent that cannot be reached has failed."""


START_POLL_S: Final = 0.5
"""Between two looks of an agent at a server that starts."""


class Ordered:
    """An action without a result so far."""

    __slots__ = ("action", "answered", "job", "ordered_s")

    def __init__(self, action: Action, ordered_s: float) -> None:
        self.action = action
        self.ordered_s = ordered_s
        self.answered = False
        self.job: Job | None = None


class SimulatedHands:
    """What an agent beside each node, and the gateway itself, would do."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def perform(self, action: Action) -> None:
        """Do it, or fail."""
        gateway = self.gateway
        engine = gateway.engine
        ordered = Ordered(action, engine.now)
        if action.advice:
            self._answer(ordered, "advised", "")
            return
        if action.kind == "abort":
            aborted = 0
            for flight in list(gateway.flights.values()):
                if flight.node == action.node and flight.job is not None:
                    gateway.give_up(flight, flight.job, "aborted")
                    aborted += 1
            self._answer(ordered, "done", f"{aborted} connections closed")
            return
        if action.kind in BOOKKEEPING_ACTIONS:
            self._answer(ordered, "done", "")
            return
        engine.call_at(action.deadline_s, partial(self._answer, ordered, "timed_out", "no result by its deadline"))
        path = gateway.paths[action.node]
        if action.kind not in gateway.simulation.hands[action.node]:
            self._answer(ordered, "no_hand", f"nobody can {action.kind} {action.node}")
        elif not path.requests_pass or path.refuses:
            detail = "the node's agent cannot be reached"
            engine.call_at(engine.now + UNREACHABLE_S, partial(self._answer, ordered, "failed", detail))
        elif action.kind == "restart":
            gateway.nodes[action.node].kill_server()
            engine.call_at(engine.now + gateway.simulation.restart_s(action.node), partial(self._restarted, ordered))
        elif action.kind == "kill_runner":
            self._kill_runner(ordered)
        elif action.kind == "load":
            self._load(ordered)
        elif action.kind == "pull":
            self._pull(ordered)
        elif action.kind == "unload":
            gateway.nodes[action.node].unload(action.model)
            self._answer_from_node(ordered, "done", "")

    def refuse(self, action: Action, why: str) -> None:
        """Answer that it is not done, because another gateway holds the lease."""
        self._answer(Ordered(action, self.gateway.engine.now), "no_lease", why)

    def _restarted(self, ordered: Ordered) -> None:
        node = self.gateway.nodes[ordered.action.node]
        node.kill_server()  # one that somebody else has started meanwhile
        node.start_server()
        self._when_it_answers(ordered)

    def _when_it_answers(self, ordered: Ordered) -> None:
        name = ordered.action.node
        node = self.gateway.nodes[name]
        if node.alive:
            self.gateway.simulation.injection.restarted(name)
            self._answer_from_node(ordered, "done", "the server answers")
        elif node.starting:
            engine = self.gateway.engine
            engine.call_at(engine.now + START_POLL_S, partial(self._when_it_answers, ordered))
        else:
            self._answer_from_node(ordered, "failed", "the server died while it started")

    def _kill_runner(self, ordered: Ordered) -> None:
        node = self.gateway.nodes[ordered.action.node]
        # Those that outlived their server are runners, too.
        count = len(node.runners) + int(node.conditions.values["orphan_processes"] if node.conditions.disturbed else 0)
        if not count:
            self._answer_from_node(ordered, "failed", "no runner is seen: no model is loaded")
            return
        node.kill_runner()
        self.gateway.simulation.injection.runners_killed(ordered.action.node)
        self._answer_from_node(ordered, "done", f"killed {count} runners")

    def _load(self, ordered: Ordered) -> None:
        node = self.gateway.nodes[ordered.action.node]
        if not node.alive:
            self._answer_from_node(ordered, "failed", "connection refused")
            return
        ordered.job = Job(ordered.action.model, 0, 0, self._loaded, ordered, ordered.action.context_tokens)
        node.submit(ordered.job)

    def _pull(self, ordered: Ordered) -> None:
        node = self.gateway.nodes[ordered.action.node]
        if not node.alive:
            self._answer_from_node(ordered, "failed", "connection refused")
            return
        node.files.pull(ordered.action.model, partial(self._pulled, ordered))

    def _pulled(self, ordered: Ordered, error: str) -> None:
        if not error:
            self.gateway.simulation.injection.pulled(ordered.action.node, ordered.action.model)
        self._answer_from_node(ordered, "failed" if error else "done", error)

    def _loaded(self, job: Job, error: AttemptError) -> None:
        ordered = job.owner
        assert isinstance(ordered, Ordered)
        self._answer_from_node(ordered, "failed" if error else "done", error)

    def _answer_from_node(self, ordered: Ordered, status: ActionStatus, detail: str) -> None:
        """What a node says does not get through where answers are cut off: then the order has no result by its deadline."""
        if self.gateway.paths[ordered.action.node].answers_pass:
            self._answer(ordered, status, detail)

    def _answer(self, ordered: Ordered, status: ActionStatus, detail: str) -> None:
        if ordered.answered:
            return
        ordered.answered = True
        action = ordered.action
        if status == "timed_out" and ordered.job is not None:
            self.gateway.nodes[action.node].cancel(ordered.job)
        now = self.gateway.engine.now
        self.gateway.recorder.actions.add(
            (
                action.action_id,
                ordered.ordered_s,
                action.kind,
                action.node,
                action.model or None,
                action.reason,
                action.expected_benefit,
                action.deadline_s,
                status,
                now,
                detail,
                self.gateway.name,
            )
        )
        self.gateway.observe(ActionResult(action.action_id, action.node, action.kind, status, detail))
