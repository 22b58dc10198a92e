"""Telemetry of the simulated nodes, at the scenario's period: into the record, and through the network to the policies."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Final

from twin.policy.vocabulary import TelemetrySample
from twin.record.telemetry_columns import TELEMETRY_NAMES
from twin.scenario.draws import stream
from twin.sim.machine import Machine

if TYPE_CHECKING:
    from twin.sim.gateway import Gateway
    from twin.sim.simulation import Simulation

EARLY_SHARE: Final = 0.9
"""A sample that is taken this share of a policy's period after the last one is sent."""

_NOTHING = (math.nan,) * len(TELEMETRY_NAMES)


class Sampling:
    """Reads every node once a period.

    A sample that is lost, or that a cut path keeps back, is missing from the record too, as it is where a real gateway
    writes it: what the gateway itself counts is in the row all the same. A late one comes to the policies later, and
    stands in the record at the time at which it was taken.
    """

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.machines = {name: Machine(node, simulation.seed) for name, node in simulation.nodes.items()}
        self._agents = simulation.scenario.cluster.agents_or_none()
        rows = simulation.telemetry_rows
        self._pack = rows.pack
        self._node_codes = rows.codes["node"]
        self._health_codes = rows.codes["health"]
        self._gaps = stream(simulation.seed, "telemetry:gaps")
        self._due_s: dict[tuple[str, str], float] = {}  # gateway and node: when its policy wants the next sample

    def sample(self, now: float) -> None:
        """Look at every node."""
        simulation = self.simulation
        policies = [gateway.policy for gateway in simulation.gateways]
        waiting = simulation.waiting()
        in_flight = dict.fromkeys(simulation.nodes, 0)
        for flight in simulation.flights():
            if flight.job is not None:
                in_flight[flight.node] += 1
        add, pack = simulation.recorder.telemetry.add, self._pack
        node_codes, health_codes = self._node_codes, self._health_codes
        agents = self._agents
        fates = self._gaps.random(len(self.machines)).tolist()
        for (name, machine), fate in zip(self.machines.items(), fates, strict=True):
            health = policies[0].health_of(name)
            if len(policies) > 1:
                health = "/".join(dict.fromkeys(policy.health_of(name) for policy in policies))
            node_code, health_code = node_codes.code(name), health_codes.code(health)
            row = (now, node_code, in_flight[name], waiting, len(machine.node.runners), health_code)
            if agents is None:
                machine.look(now)
                add(pack(*row, *_NOTHING))
                continue
            values = machine.sample(now)
            arrives = fate >= agents.missing_share and any(_reaches(gateway, name) for gateway in simulation.gateways)
            add(pack(*row, *(values if arrives else _NOTHING)))
            if fate < agents.missing_share:
                continue
            late_s = agents.late_s if fate < agents.missing_share + agents.late_share else 0.0
            for each in simulation.gateways:
                if not each.policy.reads_telemetry:
                    continue
                if now >= self._due_s.get((each.name, name), 0.0):
                    self._due_s[(each.name, name)] = now + EARLY_SHARE * each.policy.telemetry_period_s
                    self._send(now, late_s, each, name, values)
                elif each.policy.health_of(name) != "serving":  # every sample counts
                    self._send(now, late_s, each, name, values)

    def _send(self, now: float, late_s: float, gateway: Gateway, node: str, values: tuple[float, ...]) -> None:
        read = {name: value for name, value in zip(TELEMETRY_NAMES, values, strict=True) if not math.isnan(value)}
        sample = TelemetrySample(node, read)
        delay_s = late_s + gateway.paths[node].round_trip_s / 2.0
        gateway.engine.call_at(now + delay_s, partial(self._arrive, gateway, sample))

    def _arrive(self, gateway: Gateway, sample: TelemetrySample) -> None:
        if _reaches(gateway, sample.node):
            gateway.observe(sample)


def _reaches(gateway: Gateway, node: str) -> bool:
    """Whether a gateway can ask the agent beside a node, and hears the answer."""
    path = gateway.paths[node]
    return path.requests_pass and path.answers_pass
