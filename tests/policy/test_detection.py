"""Which model a node is asked for: each loaded model has its own runner, and one can hang while the other works."""

from __future__ import annotations

import pytest

from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.parameters import preset
from twin.policy.vocabulary import (
    Action,
    AttemptEnded,
    ClusterSpec,
    ModelSpec,
    NodeSpec,
    Probe,
    ProbeResult,
    RequestSpec,
)

MODELS = ("first", "second")


class TwoRunners:
    """One node with two loaded models, and a policy; the runners of `hung` give no token. Models that a server `refuses` to
    generate with only embed."""

    def __init__(self, *hung: str, refuses: tuple[str, ...] = ()) -> None:
        names = ("node-0", "node-1")
        models = tuple(ModelSpec(name, 5.0, 2, 2) for name in MODELS)
        cluster = ClusterSpec(tuple(NodeSpec(n, 24.0) for n in names), models, dict.fromkeys(names, MODELS))
        self.policy = ClusterPolicy(cluster, preset("default"))
        self.hung = hung
        self.refuses = refuses
        self.now = 0.0
        self.asked: list[str] = []  # the models of which node-0 was to generate a token
        self.restarted: list[Action] = []

    def advance(self, seconds: float) -> None:
        """Wake the policy when it wants to be woken, and answer its probes of both nodes when they are due."""
        end_s = self.now + seconds
        due: list[tuple[float, Probe]] = []
        while True:
            wake_s = self.policy.next_wakeup()
            due.sort(key=lambda entry: entry[0])
            if min(wake_s, due[0][0] if due else end_s) >= end_s:
                break
            if due and due[0][0] <= wake_s:
                self.now, probe = due.pop(0)
                self._answer(probe)
                continue
            self.now = max(self.now, wake_s)
            for command in self.policy.decide(self.now):
                if isinstance(command, Probe):
                    due.append((self.now + (probe_s := self._takes(command)), command))
                    assert probe_s <= command.timeout_s
                    if command.kind == "generation" and command.node == "node-0":
                        self.asked.append(command.model)
                elif isinstance(command, Action) and command.kind == "restart":
                    self.restarted.append(command)
        self.now = end_s

    def _hangs(self, probe: Probe) -> bool:
        return probe.node == "node-0" and probe.kind == "generation" and probe.model in self.hung

    def _takes(self, probe: Probe) -> float:
        return probe.timeout_s if self._hangs(probe) else 0.05

    def _answer(self, probe: Probe) -> None:
        hangs = self._hangs(probe)
        refuses = probe.kind == "generation" and probe.model in self.refuses
        self.policy.observe(
            self.now,
            ProbeResult(
                probe.probe_id,
                probe.node,
                probe.kind,
                probe.model,
                not hangs and not refuses,
                self._takes(probe),
                "first_token_timeout" if hangs else "client_error" if refuses else "",
                MODELS if probe.kind == "residency" else (),
            ),
        )

    def fail(self, model: str) -> None:
        """A request of this model gets no token from node-0."""
        spec = RequestSpec(1, model, 10, True, self.now, self.now + 60.0)
        assert self.policy.route(self.now, spec, 0).node == "node-0"
        started_s = self.now
        self.now += 4.0
        self.policy.observe(
            self.now, AttemptEnded(1, 0, "node-0", model, "failed", "first_token_timeout", started_s, float("nan"), 0)
        )


@pytest.mark.parametrize("model", MODELS)
def test_a_suspect_node_is_asked_for_the_model_that_failed(model: str) -> None:
    bench = TwoRunners()
    bench.fail(model)
    bench.advance(0.5)
    assert bench.asked == [model]
    assert bench.policy.view.nodes["node-0"].health == "serving"


@pytest.mark.parametrize("model", MODELS)
def test_a_hung_runner_is_found_though_the_other_one_of_its_node_works(model: str) -> None:
    bench = TwoRunners(model)
    bench.fail(model)
    bench.advance(10.0)
    assert [action.node for action in bench.restarted] == ["node-0"]
    assert f"one token of {model} was not generated" in bench.restarted[0].reason


def test_an_answer_of_one_model_does_not_clear_a_node_on_which_another_failed() -> None:
    bench = TwoRunners("second")
    bench.fail("second")
    for model in ("first", "second"):
        bench.policy.view.nodes["node-0"].replicas[model].failures_in_row += 1
    bench.advance(1.0)
    assert bench.asked[0] == "second"
    assert bench.policy.view.nodes["node-0"].health == "suspect"


def test_an_idle_node_is_asked_for_its_models_in_turn() -> None:
    bench = TwoRunners()
    bench.advance(10.0)
    assert set(bench.asked[::2]) != set(bench.asked[1::2])
    assert sorted(set(bench.asked)) == sorted(MODELS)


def test_a_hung_runner_without_traffic_is_found_by_the_turns() -> None:
    bench = TwoRunners("second")
    bench.advance(20.0)
    assert [action.node for action in bench.restarted] == ["node-0"]


def test_a_model_that_only_embeds_says_nothing_against_its_node() -> None:
    bench = TwoRunners(refuses=("second",))
    bench.advance(60.0)
    assert {node.health for node in bench.policy.view.nodes.values()} == {"serving"}
    assert not bench.restarted
    assert bench.asked.count("second") == 1, "it has said that it generates nothing"


def test_a_node_that_has_only_such_models_is_believed_as_long_as_its_server_answers() -> None:
    bench = TwoRunners(refuses=MODELS)
    bench.fail("second")
    bench.advance(30.0)
    assert bench.policy.view.nodes["node-0"].health == "serving"
    assert not bench.restarted


def test_a_hung_runner_is_found_beside_a_model_that_only_embeds() -> None:
    bench = TwoRunners("first", refuses=("second",))
    bench.advance(20.0)
    assert [action.node for action in bench.restarted] == ["node-0"]


def test_a_model_that_is_loaded_no_more_keeps_nobody_from_coming_back() -> None:
    bench = TwoRunners()
    node = bench.policy.view.nodes["node-0"]
    node.replicas["second"].failures_in_row = 1
    node.replicas["second"].resident = False
    bench.fail("first")
    assert {node.name for node in bench.policy.view.nodes.values() if node.health == "suspect"} == {"node-0"}
    spec = RequestSpec(2, "first", 10, True, bench.now, bench.now + 60.0)
    bench.policy.route(bench.now, spec, 0)
    bench.policy.observe(
        bench.now, AttemptEnded(2, 0, "node-0", "first", "succeeded", "", bench.now, bench.now + 0.1, 5)
    )
    assert bench.policy.view.nodes["node-0"].health == "serving"
