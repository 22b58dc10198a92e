"""What an operator orders: set a node aside, restart it, give it back. The orders come as observations, and are replayed.

A node that its operator has set aside is nobody else's to repair or to bring back, whatever happens to it meanwhile. A
node that is given back first gets its models loaded, then must generate a token, and then gets traffic little by little
(`router.slow_start_s`). If it does not generate, it is a failure as any other.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from twin.policy.detection import Detection
from twin.policy.healer import BOOKKEEPING_TIMEOUT_S, Healer
from twin.policy.views import ClusterView, NodeView, Replica
from twin.policy.vocabulary import OPERATOR_REASON, ActionResult, Command, OperatorOrder

Phase: TypeAlias = Literal[
    "drained",  # set aside until it is given back
    "emptying",  # it is to be restarted once nothing runs there
    "restarting",
    "warming",  # its models are being loaded
    "proving",  # a generation must pass
]


class Held:
    """A node that its operator has ordered something for."""

    __slots__ = ("announced", "had", "loads", "models", "node", "phase", "restart_id", "since_s", "stays")

    def __init__(self, node: NodeView, now: float) -> None:
        self.node = node
        self.phase: Phase = "drained"
        self.since_s = now
        self.stays = True  # drained, until it is given back
        self.announced = False  # the drain is an action of the record
        self.had = [name for name, replica in node.replicas.items() if replica.resident]
        self.models: list[str] = []  # still to be loaded
        self.loads: dict[int, Replica] = {}  # running
        self.restart_id = 0


class Operator:
    """Carries out what operators order."""

    def __init__(self, view: ClusterView, detection: Detection, healer: Healer) -> None:
        self.view = view
        self.detection = detection
        self.healer = healer
        self.open: dict[str, Held] = {}  # by node
        self.verifies = detection.probes.enabled

    @property
    def at_work(self) -> bool:
        """Whether an order waits for something that should be looked at soon."""
        return any(held.phase != "drained" for held in self.open.values())

    def phase(self, node: str) -> str:
        """What is being done to a node by order of its operator; empty: nothing."""
        held = self.open.get(node)
        return held.phase if held is not None else ""

    def order(self, now: float, order: OperatorOrder) -> None:
        """Take an order. What it asks for already is no news."""
        node = self.view.nodes[order.node]
        held = self.open.get(node.name)
        if order.order == "return":
            if held is None:
                return
            if held.phase == "drained":
                self._begin_to_warm(held)
            held.stays = False
            return
        if held is None:
            held = self.open[node.name] = Held(node, now)
            held.stays = order.order == "drain"
        if order.order == "drain":
            held.stays = True
            if held.phase in ("warming", "proving"):
                held.phase = "drained"
        elif held.phase != "restarting":
            held.phase = "emptying"
            held.since_s = now
        self._set_aside(now, held)

    def _begin_to_warm(self, held: Held) -> None:
        held.phase = "warming"
        placed = self.view.placement.get(held.node.name, ())
        held.models = [*held.had, *(name for name in placed if name not in held.had)]

    def _set_aside(self, now: float, held: Held) -> None:
        held.node.held = True
        self.view.happened(held.node, "drain", now)

    def decide(self, now: float, commands: list[Command]) -> None:
        """Move every order on."""
        for held in list(self.open.values()):
            if not held.announced:
                held.announced = True
                commands.append(
                    self.healer.action(now, "drain", held.node, "", OPERATOR_REASON, BOOKKEEPING_TIMEOUT_S, 0.0, True)
                )
            if held.phase == "emptying":
                self._restart_once_idle(now, held, commands)
            elif held.phase == "warming":
                self._warm(now, held, commands)
            elif held.phase == "proving" and held.node.health != "suspect":
                del self.open[held.node.name]  # it serves, or is a failure that the healer has

    def _restart_once_idle(self, now: float, held: Held, commands: list[Command]) -> None:
        node = held.node
        parameters = self.healer.parameters
        under_repair = self.detection.under_repair
        if node.name in under_repair or len(under_repair) >= parameters.concurrent_max:
            return  # the healer's own restart of it is not over, or enough are restarted at once
        if node.in_flight and now - held.since_s < parameters.drain_timeout_s:
            return
        order = self.healer.action(now, "restart", node, "", OPERATOR_REASON, parameters.action_timeout_s, 0.0, True)
        commands.append(order)
        held.restart_id = order.action_id
        held.phase = "restarting"
        held.loads.clear()
        self.detection.under_repair.add(node.name)

    def _warm(self, now: float, held: Held, commands: list[Command]) -> None:
        """Load what the node had, or is to have, each once; then let a generation prove it."""
        node = held.node
        for name in held.models:
            replica = node.replicas[name]
            fits = replica.stored and node.free_gib() >= replica.model.memory_gib
            if replica.resident or replica.loading or not fits or "load" not in node.hands:
                continue
            replica.loading = True
            timeout_s = self.view.parameters.redundancy.load_timeout_s
            order = self.healer.action(now, "load", node, name, "the node is to come back warm", timeout_s, 0.0, True)
            held.loads[order.action_id] = replica
            commands.append(order)
        held.models = []
        if held.loads:
            return
        held.phase = "proving"
        node.held = False
        node.returning = True
        self.view.happened(node, "return", now)
        reason = f"{OPERATOR_REASON}; a generation must pass before it gets traffic"
        commands.append(self.healer.action(now, "return", node, "", reason, BOOKKEEPING_TIMEOUT_S, 0.0, True))
        if self.verifies:
            self.detection.ask_anew(now, node)
        else:
            self.view.happened(node, "passed", now)  # nobody probes here: the operator's word is all there is

    def result(self, now: float, result: ActionResult) -> bool:
        """The result of an action; whether it was one of the operator's."""
        held = self.open.get(result.node)
        if held is None:
            return False
        replica = held.loads.pop(result.action_id, None)
        if replica is not None:
            replica.loading = False
            if result.status == "done":
                self.view.loaded(replica, now)
                self.detection.load_worked(replica)
            self.view.replace(held.node, now)
            return True
        if held.phase != "restarting" or result.action_id != held.restart_id:
            return False
        self.detection.under_repair.discard(result.node)
        if result.status == "done":
            self.detection.restarted(now, held.node)
        if held.stays:
            held.phase = "drained"
        else:
            self._begin_to_warm(held)
        return True
