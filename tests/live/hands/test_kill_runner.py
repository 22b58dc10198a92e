"""Killing runners: by the agent, by who supervises the process, by a command; and what the policy may choose."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

from live.controller.commands import CommandRunner
from live.hands.agent import AgentHands
from live.hands.build import build_hands
from live.hands.command import CommandHands
from live.hands.config import HandsConfig
from live.hands.process import is_running, plain_environment
from live.hands.protocol import HandResult, Hands
from live.hands.supervisor import SupervisedHands, Supervisor
from live.rig.processes import free_port
from tests.live.agent.test_agent import agent
from twin.policy.vocabulary import Action, Advice, Observation, Question

KILL = Action(1, "kill_runner", "a", "", "why", 60.0, 1.0)
SERVER = """
import http.server, subprocess, sys
subprocess.Popen(["sleep", "60"])
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.BaseHTTPRequestHandler).serve_forever()
"""


async def test_what_a_supervised_server_has_started_is_killed_and_the_server_lives(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-c", SERVER, str(port)]
    url = f"http://127.0.0.1:{port}"
    supervisor = Supervisor("a", command, url=url, log=tmp_path / "log", environment=plain_environment())
    hands = SupervisedHands({"a": supervisor})
    await supervisor.start()
    try:
        pid = supervisor.pid
        (runner,) = psutil.Process(pid).children()
        assert await hands.perform(KILL) == HandResult("done", "killed 1 runners")
        assert not is_running(runner)  # dead, and at most waiting for the server to take note
        assert supervisor.pid == pid
        assert (await hands.perform(KILL)).status == "failed"
    finally:
        await hands.close()


async def test_an_agent_that_sees_no_runner_says_so() -> None:
    server = agent()
    url = await server.start()
    hands = AgentHands({"a": url}, "secret")
    try:
        assert await hands.perform(KILL) == HandResult("failed", "no runner is seen: no model is loaded")
    finally:
        await hands.close()
        await server.stop()


async def test_each_node_gets_the_hand_that_is_configured_for_it(tmp_path: Path) -> None:
    node = {"a": "http://127.0.0.1:1"}
    by_command = build_hands(node, HandsConfig.model_validate({"kill_runner": ["kill-it", "{node}"]}), {}, {}, "")
    assert isinstance(by_command.hand("kill_runner", "a"), CommandHands)
    process = HandsConfig.model_validate({"restart": {"process": {"log": str(tmp_path / "log")}}})
    assert isinstance(build_hands(node, process, {}, {}, "").hand("kill_runner", "a"), SupervisedHands)
    by_agent = build_hands(node, HandsConfig(), {}, {"a": "http://127.0.0.1:2"}, "")
    assert isinstance(by_agent.hand("kill_runner", "a"), AgentHands)
    assert build_hands(node, HandsConfig(), {}, {}, "").hand("kill_runner", "a") is None


def test_what_can_be_done_is_said_of_each_node_by_itself() -> None:
    nodes = {name: f"http://127.0.0.1:{port}" for port, name in enumerate("abcd", 1)}
    own = {"a": HandsConfig.model_validate({"restart": "restart-it"})}
    agents = {"b": "http://127.0.0.1:9"}
    hands = build_hands(nodes, HandsConfig(), own, agents, "")

    def beyond_the_api() -> list[list[str]]:
        return [sorted(hands.kinds(name) - {"load", "unload", "pull", "copy"}) for name in nodes]

    assert beyond_the_api() == [["restart"], ["kill_runner", "restart"], [], []]
    agents["c"] = "http://127.0.0.1:8"
    assert beyond_the_api() == [["restart"], ["kill_runner", "restart"], ["kill_runner", "restart"], []]
    assert isinstance(hands.hand("restart", "a"), CommandHands)
    assert isinstance(hands.hand("restart", "c"), AgentHands)
    assert hands.hand("restart", "d") is None


class Seen:
    def __init__(self) -> None:
        self.observations: list[Observation] = []

    def now(self) -> float:
        return 0.0

    def observe(self, observation: Observation) -> None:
        self.observations.append(observation)

    def fail(self, error: Exception) -> None:
        raise error


class NoHands(Hands):
    async def perform(self, action: Action) -> HandResult:
        raise AssertionError(f"{action.kind} was to be written down only")

    async def close(self) -> None: ...


async def test_advice_is_written_down_and_not_carried_out() -> None:
    run = Seen()
    runner = CommandRunner(run, None, NoHands(), None)  # type: ignore[arg-type]  # nothing is probed
    runner.start(Action(7, "restart", "a", "", "why", 60.0, 1.0, advice=True))
    await runner.stop()
    (result,) = run.observations
    assert (result.action_id, result.status) == (7, "advised")  # type: ignore[union-attr]
    assert runner.recent[0]["status"] == "advised"


async def test_a_question_is_answered_by_who_looks_ahead_or_that_nobody_does() -> None:
    run = Seen()
    runner = CommandRunner(run, None, NoHands(), None)  # type: ignore[arg-type]
    question = Question(3, "a", ("restart", "nothing"), 60.0, 1.0)
    runner.start(question)
    await runner.stop()
    assert run.observations == [Advice(3, "a", "unavailable", {}, "nobody here can look ahead")]

    async def advise(asked: Question) -> Advice:
        return Advice(asked.question_id, asked.node, "done", {"nothing": 2.0, "restart": 0.0})

    runner.advise = advise
    runner.start(question)
    await runner.stop()
    assert run.observations[1] == Advice(3, "a", "done", {"nothing": 2.0, "restart": 0.0})
