"""Which remedy for a failing node, when; and whether it worked.

A remedy has worked only when an independent generation passes afterwards and the node goes on working for the hold
time. Until then the incident is open, and the next remedy waits for a cooldown that doubles each time.
"""

from __future__ import annotations

import math
from typing import Final, TypeVar

from twin.policy.detection import STILL_SERVING, Confirmed, Detection, Diagnosis
from twin.policy.health import ROUTABLE
from twin.policy.incidents import OpenIncident
from twin.policy.views import ClusterView, NodeView
from twin.policy.vocabulary import Action, ActionKind, ActionResult, Command, Incident

BENEFIT_HORIZON_S: Final = 60.0
"""What a repaired node would serve in this time is the benefit of its repair."""

RESTART_SUCCESS_PRIOR: Final = 0.9
"""Assumption: share of restarts that help, until outcomes are learnt."""

RELAPSE_S: Final = 600.0
"""A failure this soon after the last action on the same node is the old trouble: cooldown and attempts go on from there."""

ABORT_TIMEOUT_S: Final = 5.0
BOOKKEEPING_TIMEOUT_S: Final = 5.0
"""Drain and return change what the policy does, not the node."""

Item = TypeVar("Item")


class Healer:
    """Opens incidents for confirmed failures, orders actions, verifies them, closes incidents."""

    def __init__(self, view: ClusterView, detection: Detection) -> None:
        self.view = view
        self.detection = detection
        self.parameters = view.parameters.healer
        self.open: dict[str, OpenIncident] = {}  # by node
        self.incidents: list[Incident] = []
        self.actions: dict[int, str] = {}  # running disruptive actions: id to node
        self.action_id = 0
        self.last_action: dict[str, tuple[float, int]] = {}  # by node: when, and the how manieth in a row
        self.slow_since_s: dict[str, float] = {}
        self.to_return: list[NodeView] = []  # drained nodes whose repair is over

    def decide(self, now: float, commands: list[Command]) -> None:
        """Move every incident on, and add what is to be done."""
        for node in self._taken(self.to_return):
            if node.held:
                continue  # its operator says when
            # A drained node is proved by a generation before it gets traffic.
            self.view.happened(node, "return", now)
            reason = "its restart is over; a generation must pass before it gets traffic"
            commands.append(self.action(now, "return", node, "", reason, BOOKKEEPING_TIMEOUT_S, 0.0))
        self._note_slow_nodes(now)
        for confirmed in self._taken(self.detection.confirmed):
            self._confirmed(now, confirmed, commands)
        for node in self._taken(self.detection.failed_again):
            self._failed_again(now, node)
        for node in self._taken(self.detection.passed):
            self._passed(now, node)
        for node in self._taken(self.detection.loads_again):
            self._works_by_itself(now, node, "load_path_stuck")
        for name in list(self.open):
            self._step(now, self.view.nodes[name], self.open[name], commands)

    @staticmethod
    def _taken(items: list[Item]) -> list[Item]:
        taken = items[:]
        items.clear()
        return taken

    def _note_slow_nodes(self, now: float) -> None:
        slow = self.detection.slowness.slow
        for name in list(self.slow_since_s):
            if name not in slow:
                del self.slow_since_s[name]
        for name, evidence in slow.items():
            since_s = self.slow_since_s.setdefault(name, now)
            if now - since_s >= self.view.parameters.slowness.patience_s and name not in self.open:
                self.detection.confirmed.append(Confirmed(self.view.nodes[name], "slow", evidence))

    def _confirmed(self, now: float, confirmed: Confirmed, commands: list[Command]) -> None:
        node = confirmed.node
        if node.held:
            return  # its operator has set it aside, and may be working on it
        known = self.open.get(node.name)
        if known is not None:
            if known.incident.diagnosis == "unreachable" and confirmed.diagnosis == "server_down":
                # No network that a restart would not mend: the grace is over.
                known.incident.diagnosis = confirmed.diagnosis
                known.incident.evidence += f"; then {confirmed.evidence}"
                known.not_before_s = min(known.not_before_s, now + self._cooldown_s(known))
            self._failed_again(now, node)
        else:
            incident = Incident(len(self.incidents), node.name, confirmed.diagnosis, confirmed.evidence, now)
            self.incidents.append(incident)
            work = OpenIncident(incident)
            acted_s, in_a_row = self.last_action.get(node.name, (-math.inf, 0))
            if now - acted_s < RELAPSE_S:
                work.earlier_actions = in_a_row
                work.not_before_s = acted_s + self._cooldown_s(work)
            if confirmed.diagnosis == "unreachable":
                work.not_before_s = max(work.not_before_s, now + self.parameters.unreachable_grace_s)
            self.open[node.name] = work
            self.detection.in_incident.add(node.name)
            if node.health != "down" and confirmed.diagnosis not in STILL_SERVING | {"crash_loop"}:
                self._holds(now, work)  # a generation has passed since it was confirmed
        if node.health == "down" and node.in_flight:
            reason = f"{confirmed.diagnosis}: {confirmed.evidence}; its {node.in_flight} requests go on elsewhere"
            commands.append(self.action(now, "abort", node, "", reason, ABORT_TIMEOUT_S, float(node.in_flight)))

    def _failed_again(self, now: float, node: NodeView) -> None:
        work = self.open.get(node.name)
        if work is not None and work.happened("failed"):
            work.not_before_s = max(work.not_before_s, now + self._cooldown_s(work))

    def _passed(self, now: float, node: NodeView) -> None:
        work = self.open.get(node.name)
        if work is None:
            return
        if work.incident.diagnosis in STILL_SERVING and work.incident.state in ("open", "given_up"):
            return  # a generation from a loaded model says nothing of what is wrong here
        self._holds(now, work)

    def _holds(self, now: float, work: OpenIncident) -> None:
        if work.happened("passed"):
            work.incident.verified_s = now
            work.hold_until_s = now + self.parameters.hold_s

    def _works_by_itself(self, now: float, node: NodeView, diagnosis: Diagnosis) -> None:
        """What was wrong with a node that still serves is over, and nothing has been done to it so far."""
        work = self.open.get(node.name)
        if work is not None and work.incident.diagnosis == diagnosis and node.health in ROUTABLE:
            self._holds(now, work)

    def _cooldown_s(self, work: OpenIncident) -> float:
        in_a_row = work.earlier_actions + work.incident.actions
        return self.parameters.cooldown_s * 2.0 ** (in_a_row - 1) if in_a_row else 0.0

    def _step(self, now: float, node: NodeView, work: OpenIncident, commands: list[Command]) -> None:
        state = work.incident.state
        if state == "holding" and now >= work.hold_until_s and node.health in ROUTABLE:
            work.happened("held")
            work.incident.closed_s = now
            self.view.happened(node, "held", now)
            del self.open[node.name]
            self.detection.in_incident.discard(node.name)
        elif state == "verifying" and now >= work.verify_by_s:
            work.happened("failed")
            work.not_before_s = now + self._cooldown_s(work)
        elif state in ("open", "given_up"):
            if work.incident.diagnosis == "slow" and node.name not in self.detection.slowness.slow:
                self._works_by_itself(now, node, "slow")
            if work.incident.state == "open":
                self._remedy(now, node, work, commands)

    def _remedy(self, now: float, node: NodeView, work: OpenIncident, commands: list[Command]) -> None:
        if not (self.parameters.enabled and self.parameters.restart) or now < work.not_before_s or node.held:
            return
        if work.earlier_actions + work.incident.actions >= self.parameters.attempts_max:
            work.happened("exhausted")
            return
        if len(self.detection.under_repair) >= self.parameters.concurrent_max:
            return
        if work.incident.diagnosis == "unreachable" and self._blind():
            return
        if work.incident.diagnosis in STILL_SERVING and not self._drained(now, node, work, commands):
            return
        self.view.happened(node, "confirmed", now)  # whatever it does now, it gets nothing while it is restarted
        benefit = RESTART_SUCCESS_PRIOR * node.served / max(now, 1.0) * BENEFIT_HORIZON_S - node.in_flight
        reason = f"{work.incident.diagnosis}: {work.incident.evidence}"
        order = self.action(now, "restart", node, "", reason, self.parameters.action_timeout_s, benefit)
        commands.append(order)
        self.actions[order.action_id] = node.name
        work.pending_action = order.action_id
        work.incident.actions += 1
        work.happened("acted")
        self.detection.under_repair.add(node.name)
        self.last_action[node.name] = (now, work.earlier_actions + work.incident.actions)

    def _blind(self) -> bool:
        """Most of a fleet is out of reach at once: then it is we who see nothing, and no restart mends that."""
        unreachable = sum(work.incident.diagnosis == "unreachable" for work in self.open.values())
        return unreachable > len(self.view.nodes) / 2

    def _drained(self, now: float, node: NodeView, work: OpenIncident, commands: list[Command]) -> bool:
        """Set a node that still serves aside first, where its models keep enough replicas without it."""
        if node.health != "drained":
            for name, replica in node.replicas.items():
                if replica.resident and replica.model.replicas > 0:
                    others = sum(other.node is not node for other in self.view.serving_replicas(name))
                    if others < self.parameters.replicas_min:
                        return False
            self.view.happened(node, "drain", now)
            reason = f"{work.incident.diagnosis}: {work.incident.evidence}; it is restarted once it is idle"
            commands.append(self.action(now, "drain", node, "", reason, BOOKKEEPING_TIMEOUT_S, 0.0))
            work.drained_at_s = now
        return node.in_flight == 0 or now - work.drained_at_s >= self.parameters.drain_timeout_s

    def result(self, now: float, result: ActionResult) -> None:
        """The result of a disruptive action."""
        name = self.actions.pop(result.action_id, None)
        if name is not None:
            self.detection.under_repair.discard(name)
        work = self.open.get(name) if name is not None else None
        if work is None or work.pending_action != result.action_id:
            return
        work.pending_action = None
        node = self.view.nodes[result.node]
        if result.status == "done":
            work.happened("action_done")
            work.verify_by_s = now + self.parameters.verify_timeout_s
            self.detection.restarted(now, node)
        else:
            work.happened("action_failed")
            work.not_before_s = now + self._cooldown_s(work)
        if node.health == "drained":
            self.to_return.append(node)
            self.detection.wake_s = now

    def action(
        self, now: float, kind: ActionKind, node: NodeView, model: str, reason: str, timeout_s: float, benefit: float
    ) -> Action:
        """A new action."""
        self.action_id += 1
        benefit = round(benefit, 3) if math.isfinite(benefit) else 0.0
        return Action(self.action_id, kind, node.name, model, reason, now + timeout_s, benefit)
