"""What nobody can do to a node: the controller says so to the policy, and the policy takes it for what it is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from live.controller.driver import PolicyDriver
from live.hands.protocol import HandResult, Hands
from live.hands.router import HandsByKind
from tests.policy.bench import cluster
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.parameters import preset
from twin.policy.vocabulary import Action, ActionKind, AttemptError, NodeHands, Probe, ProbeResult
from twin.record.writer import Recorder


class Well:
    """A hand that does what it is asked."""

    async def perform(self, action: Action) -> HandResult:
        return HandResult("done")

    async def close(self) -> None: ...


class Hung:
    """node-0 generates nothing; all else is well."""

    async def perform(self, probe: Probe) -> ProbeResult:
        hangs = probe.kind == "generation" and probe.node == "node-0"
        error: AttemptError = "first_token_timeout" if hangs else ""
        models = ("m",) if probe.kind == "residency" else ()
        return ProbeResult(probe.probe_id, probe.node, probe.kind, probe.model, not error, 0.01, error, models)


class Controller:
    """A driver whose clock is turned by hand, before a node that hangs."""

    def __init__(self, hands: Mapping[ActionKind, Hands]) -> None:
        self.clock_s = 100.0
        self.recorder = Recorder(None)
        self.policy = ClusterPolicy(cluster(2, 2, 2), preset("default", {"predictor.enabled": False}))
        self.driver = PolicyDriver(
            self.policy, Hung(), HandsByKind(hands), recorder=self.recorder, clock=lambda: self.clock_s
        )

    async def goes_on(self, for_s: float) -> None:
        until_s = self.clock_s + for_s
        while self.clock_s < until_s:
            self.clock_s += 0.25
            self.driver._wake()  # its timer is of the real clock, which this one has left behind
            for _ in range(6):  # what is ordered begins, and ends
                await asyncio.sleep(0)

    async def until_ordered(self) -> None:
        before = len(self.written())
        while len(self.written()) == before:
            assert self.clock_s < 160.0, "nothing is ordered"
            await self.goes_on(0.25)

    def written(self) -> list[tuple[str, str, str]]:
        rows = self.recorder.actions
        rows.flush()
        found = [row for batch in rows.batches for row in batch.to_pylist()]
        return [(row["kind"], row["status"], row["detail"]) for row in found]


async def test_a_restart_that_nobody_can_do_is_no_attempt_and_the_next_remedy_follows_at_once() -> None:
    it = Controller({"kill_runner": Well(), "load": Well(), "unload": Well()})
    await it.driver.start()
    await it.until_ordered()
    (first, second) = it.written()
    assert first == ("restart", "no_hand", "no hand is configured for restart of node-0")
    assert second[:2] == ("kill_runner", "done"), "no cooldown: nothing was done before"
    assert "restart" not in it.policy.view.nodes["node-0"].hands
    assert "restart" in it.policy.view.nodes["node-1"].hands
    assert it.policy.healer.rates.snapshot() == {}
    assert it.policy.incidents[0].actions == 1
    assert it.policy.snapshot().parts["nodes"]["node-0"]["hands"] == ["copy", "kill_runner", "load", "pull", "unload"]
    await it.driver.stop()


async def test_where_nobody_can_do_anything_the_incident_says_so() -> None:
    it = Controller({})
    await it.driver.start()
    await it.until_ordered()
    await it.goes_on(30.0)
    statuses = {status for kind, status, _ in it.written() if kind in ("restart", "kill_runner", "unload")}
    assert statuses == {"no_hand"}
    assert len(it.written()) == len({kind for kind, _, _ in it.written()}), "each was tried once, and no more"
    (incident,) = it.policy.incidents
    assert "no hand for kill_runner or restart or unload on node-0" in incident.evidence
    assert (incident.state, incident.actions) == ("open", 0)
    await it.driver.stop()


async def test_an_agent_that_comes_later_repairs_what_nobody_could() -> None:
    hands: dict[ActionKind, Hands] = {}
    it = Controller(hands)
    await it.driver.start()
    await it.until_ordered()
    await it.goes_on(30.0)
    before = len(it.written())
    hands["restart"] = Well()
    it.driver.observe(NodeHands("node-0", ("restart",)))
    await it.until_ordered()
    assert it.written()[before] == ("restart", "done", "")
    assert it.policy.snapshot().parts["nodes"]["node-0"]["hands"] == ["restart"]
    await it.driver.stop()
