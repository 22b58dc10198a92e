"""A node on simulated time, and a whole simulation whose record is at hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.vocabulary import AttemptError, Policy
from twin.record.reader import RunRecord
from twin.record.writer import Recorder
from twin.scenario.hardware import Hardware
from twin.scenario.schema import Scenario
from twin.sim.engine import Engine
from twin.sim.node import ModelOnNode, OllamaNode
from twin.sim.runner import Job
from twin.sim.simulation import Simulation

HARDWARE = Hardware(decode_ms=[10.0], prefill_tokens_per_s=None, vram_gib=12, load_gib_per_s=1.0, runner_start_s=0.5)
LOAD_S = 0.5 + 4.0


class NodeBench:
    """One node with the models a, b and c, of 4 GiB of weights and 5 GiB of memory each: two fit. A token takes 10 ms."""

    def __init__(
        self, slots: int = 1, max_queue: int = 512, keep_alive_s: float | None = None, hardware: Hardware = HARDWARE
    ) -> None:
        self.engine = Engine()
        models = {name: ModelOnNode(name, 4.0, 5.0, 4096) for name in "abc"}
        self.node = OllamaNode(self.engine, "node-0", hardware, models, slots, max_queue, keep_alive_s)
        self.ended: dict[str, Any] = {}  # name to (time, error)
        self.jobs: dict[str, Job] = {}

    def at(self, time_s: float, what: Any, *arguments: Any) -> None:
        self.engine.call_at(time_s, partial(what, *arguments))

    def ask(self, time_s: float, name: str, model: str, tokens: int = 10, context: int = 0) -> None:
        """A request of that name arrives."""

        def submit() -> None:
            job = self.jobs[name] = Job(model, 0, tokens, partial(self._end, name), None, context)
            self.node.submit(job)

        self.at(time_s, submit)

    def hang_up(self, time_s: float, name: str) -> None:
        """Its client goes away."""
        self.at(time_s, lambda: self.node.cancel(self.jobs[name]))

    def _end(self, name: str, job: Job, error: AttemptError) -> None:
        assert name not in self.ended
        self.ended[name] = (round(self.engine.now, 6), error)

    def run(self, until_s: float = 10_000.0) -> dict[str, Any]:
        self.at(until_s, self.engine.finish)
        self.engine.run_calls()
        return self.ended


def restart_at(time_s: float, node: str) -> Callable[[Simulation], None]:
    """To be given to `simulate`: an operator restarts the node's service then."""

    def restart(simulation: Simulation) -> None:
        simulation.nodes[node].kill_server()
        simulation.nodes[node].start_server()
        simulation.injection.restarted(node)

    return lambda simulation: simulation.engine.call_at(time_s, partial(restart, simulation))


def simulate(
    scenario: Scenario,
    seed: int = 1,
    policy: Policy | None = None,
    prepare: Callable[[Simulation], None] = lambda simulation: None,
) -> tuple[Simulation, RunRecord]:
    """Run it, with the scenario's policy unless another is given, and with what `prepare` does before it starts."""
    recorder = Recorder(None)
    parameters = scenario.policy.parameters()
    spec = scenario.cluster.spec()
    policies = [policy or ClusterPolicy(spec, parameters) for _ in scenario.cluster.gateway_names()]
    simulation = Simulation(scenario, seed, policies, recorder, parameters=parameters)
    prepare(simulation)
    simulation.run()
    whole = {
        "scenario": scenario.model_dump(mode="json", by_alias=True),
        "seed": seed,
        "simulated_s": simulation.engine.now,
        "events": simulation.engine.calls,
        "wall_s": 0.0,
    }
    return simulation, recorder.close(whole)
