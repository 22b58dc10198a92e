"""A repair leaves enough serving replicas of every model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from twin.policy.health import ROUTABLE
from twin.policy.vocabulary import OPERATOR_REASON, Action
from twin.sim.checkers.base import Checker

if TYPE_CHECKING:
    from twin.sim.simulation import Simulation


class ReplicaFloor(Checker):
    """Two judgements. By what the gateway's own policy knows: a node that still serves is drained for a repair only where
    the floor holds without it. By the truth, which no policy can know: a false alarm (the restart of a node that could
    have served) leaves at least one replica on a node that works, whether or not a gateway gets through to it just then."""

    name = "replica_floor"

    def on_action(self, now: float, action: Action, simulation: Simulation, gateway: str) -> None:
        """Only working nodes can be taken away."""
        if action.advice:
            return
        floor = simulation.parameters.healer.replicas_min
        if action.kind in ("restart", "kill_runner") and self._serves(simulation, action.node):
            able = {node.name: node.resident() for node in simulation.nodes.values() if simulation.works(node.name)}
            self._look(now, "restarting", action.node, able, min(floor, 1), simulation)
        elif action.kind == "drain" and action.reason != OPERATOR_REASON:
            policy = next(it.policy for it in simulation.gateways if it.name == gateway)
            known = policy.snapshot().parts["nodes"]
            believed = {
                name: it["resident"] for name, it in known.items() if it["health"] in ROUTABLE or name == action.node
            }
            self._look(now, "draining", action.node, believed, floor, simulation)

    @staticmethod
    def _serves(simulation: Simulation, node: str) -> bool:
        """It works, and some gateway gets through to it: to the clients of a cluster a node out of reach serves nothing."""
        paths = [gateway.paths[node] for gateway in simulation.gateways]
        reached = any(path.requests_pass and path.answers_pass and not path.refuses for path in paths)
        return reached and simulation.works(node)

    def _look(
        self,
        now: float,
        doing: str,
        name: str,
        resident: Mapping[str, Iterable[str]],
        floor: int,
        simulation: Simulation,
    ) -> None:
        """Every model of that node, against the others."""
        for model in resident[name]:
            known = simulation.scenario.cluster.models.get(model)
            if known is None or not known.replicas:
                continue
            others = sum(model in models for other, models in resident.items() if other != name)
            if others < floor:
                self.violated(now, f"{doing} {name} leaves {others} replicas of {model}")
