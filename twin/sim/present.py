"""The present state of a cluster: where a what-if starts.

A simulation can be asked for it, and can start from it. What a live controller knows of its own cluster has the same form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from twin.policy.vocabulary import PolicyState, RequestSpec
from twin.scenario.faults.base import LinkChange
from twin.sim.flight import Flight

if TYPE_CHECKING:
    from twin.sim.simulation import Simulation


@dataclass(frozen=True, slots=True)
class RequestNow:
    """A request that has not ended. `output_tokens` is how long its answer will be in all, known or estimated."""

    model: str
    prompt_tokens: int
    output_tokens: int
    tokens_made: int
    stream: bool
    age_s: float
    deadline_in_s: float
    node: str  # empty: it waits at the gateway


@dataclass(frozen=True, slots=True)
class NodeNow:
    """A node as it is, or is believed to be."""

    alive: bool
    hung: bool  # its runners do not execute
    loader_stuck: bool
    unreachable: bool
    slowdown: float
    resident: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClusterNow:
    """The whole state. Times are relative to the present."""

    nodes: dict[str, NodeNow]
    requests: tuple[RequestNow, ...]
    policy: PolicyState


def present(simulation: Simulation) -> ClusterNow:
    """The state that a simulation is in (the truth, where a controller would have beliefs)."""
    now = simulation.engine.now
    gateway = simulation.gateways[0]
    nodes = {
        name: NodeNow(
            alive=node.alive,
            hung=any(runner.paused for runner in node.runners.values()),
            loader_stuck=node.loader_stuck,
            unreachable=not (gateway.paths[name].requests_pass and gateway.paths[name].answers_pass),
            slowdown=node.slowdown,
            resident=tuple(node.runners),
        )
        for name, node in simulation.nodes.items()
    }
    requests = tuple(_request(flight, now) for flight in gateway.flights.values())
    return ClusterNow(nodes, requests, gateway.policy.snapshot())


def _request(flight: Flight, now: float) -> RequestNow:
    spec, job = flight.spec, flight.job
    made = job.runner.tokens_of(job, now) if job is not None and job.runner is not None else 0
    return RequestNow(
        spec.model,
        spec.prompt_tokens,
        flight.output_tokens,
        made,
        spec.stream,
        now - spec.arrival_s,
        spec.deadline_s - now,
        flight.node if job is not None else "",
    )


def begin_from(simulation: Simulation, state: ClusterNow) -> None:
    """Put a simulation that has not run yet into a state.

    What a request at a node has left to generate is a new, shorter generation there, its prompt evaluated already where
    it had its first token; so it keeps its place, its slot and its remaining work. Its latency counts from now on.
    """
    gateway = simulation.gateways[0]
    for name, now in state.nodes.items():
        node = simulation.nodes[name]
        for model in [*node.runners]:
            if model not in now.resident:
                node.let_go(model)
        for model in now.resident:
            if model not in node.runners:
                node.add_runner(model)
        if now.slowdown != 1.0:
            node.slow_gpu(now.slowdown)
        if now.unreachable:
            for path in simulation.network.change("present", name, LinkChange(blocked="both")):
                gateway.transport.changed(path)
    gateway.policy.restore(0.0, state.policy)
    waiting: list[Flight] = []
    for number, request in enumerate(sorted(state.requests, key=lambda it: -it.age_s)):
        spec = RequestSpec(
            -1 - number,
            request.model,
            0 if request.tokens_made else request.prompt_tokens,
            request.stream,
            0.0,
            request.deadline_in_s,
        )
        flight = Flight(spec, max(1, request.output_tokens - request.tokens_made))
        if request.node:
            gateway.adopt(0.0, flight, request.node)
        else:
            waiting.append(flight)
    for flight in waiting:
        gateway.offer(0.0, flight)
    for name, now in state.nodes.items():
        node = simulation.nodes[name]
        if now.hung:
            node.pause_runner()
            simulation.injection.fell_silent(name)
        if now.loader_stuck:
            node.stick_loader()
        if not now.alive:
            node.kill_server()
