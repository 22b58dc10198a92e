"""What outlives a restart of the controller."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from live.controller import checkpoint as module
from live.controller.checkpoint import Checkpoint
from live.controller.driver import PolicyDriver
from live.hands.router import HandsByKind
from tests.live.gateway.doubles import NoProbes, until
from twin.errors import OperatorError
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.parameters import preset
from twin.policy.vocabulary import ClusterSpec, ModelSpec, NodeSpec, OperatorOrder

NODES = {"a", "b"}


async def driver() -> PolicyDriver:
    cluster = ClusterSpec(tuple(map(NodeSpec, sorted(NODES))), (ModelSpec("m", 1.0, 2, 1),), {"a": ("m",), "b": ("m",)})
    it = PolicyDriver(ClusterPolicy(cluster, preset("default", {"probes.enabled": False})), NoProbes(), HandsByKind({}))
    await it.start()
    return it


def operator(it: PolicyDriver, node: str) -> str:
    phase: str = it.policy.snapshot().parts["nodes"][node]["operator"]
    return phase


async def test_a_drained_node_is_drained_after_a_restart(tmp_path: Path) -> None:
    first = await driver()
    saved = Checkpoint(tmp_path / "state.json", first, 60.0)
    assert saved.start(NODES) == []
    first.observe(OperatorOrder("a", "drain"))
    await saved.stop()
    await first.stop()
    second = await driver()
    again = Checkpoint(tmp_path / "state.json", second, 60.0)
    assert again.start(NODES) == ["a"]
    assert (operator(second, "a"), operator(second, "b")) == ("drained", "")
    second.observe(OperatorOrder("a", "return"))
    await again.stop()
    await second.stop()


async def test_a_drain_is_saved_at_once_so_that_a_crash_forgets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.005)
    it = await driver()
    file = tmp_path / "state.json"
    saved = Checkpoint(file, it, 3600.0)
    saved.start(NODES)
    it.observe(OperatorOrder("b", "drain"))
    await until(lambda: json.loads(file.read_text())["drained"] == ["b"])
    await saved.stop()
    await it.stop()


async def test_a_node_that_has_left_the_cluster_is_no_matter(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    file.write_text('{"drained": ["gone", "b"]}')
    it = await driver()
    saved = Checkpoint(file, it, 60.0)
    assert saved.start(NODES) == ["b"]
    await saved.stop()
    await it.stop()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"drained": 7}'])
async def test_a_file_that_makes_no_sense_is_kept_aside_and_does_not_keep_the_gateway_down(
    tmp_path: Path, text: str
) -> None:
    file = tmp_path / "state.json"
    file.write_text(text)
    it = await driver()
    saved = Checkpoint(file, it, 60.0)
    assert saved.start(NODES) == []
    assert (tmp_path / "state.json.unreadable").read_text() == text
    await saved.stop()
    await it.stop()


async def test_a_file_that_cannot_be_written_is_said_at_the_start(tmp_path: Path) -> None:
    it = await driver()
    with pytest.raises(OperatorError, match="cannot be written: No such file or directory"):
        Checkpoint(tmp_path / "none" / "state.json", it, 60.0).start(NODES)
    await it.stop()
    await asyncio.sleep(0)


async def test_where_the_first_copy_is_damaged_the_second_is_read(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    first = await driver()
    saved = Checkpoint(file, first, 60.0, copies=3)
    saved.start(NODES)
    first.observe(OperatorOrder("a", "drain"))
    await saved.stop()
    await first.stop()
    assert sorted(os.listdir(tmp_path)) == ["state.json", "state.json.1", "state.json.2"]
    file.write_text("{")
    second = await driver()
    again = Checkpoint(file, second, 60.0, copies=3)
    assert again.start(NODES) == ["a"]
    await again.stop()
    await second.stop()


async def test_what_was_learnt_is_taken_over_from_a_young_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    first = await driver()
    assert isinstance(first.policy, ClusterPolicy)
    first.policy.healer.rates.note("restart", "slow", "a", 3.0, 0.0)
    saved = Checkpoint(file, first, 60.0)
    saved.start(NODES)
    await saved.stop()
    await first.stop()
    for age_s, learnt in ((0.0, 3.0), (7200.0, 0.0)):
        state = json.loads(file.read_text())
        state["saved_unix_s"] -= age_s
        file.write_text(json.dumps(state))
        second = await driver()
        assert isinstance(second.policy, ClusterPolicy)
        again = Checkpoint(file, second, 60.0)
        again.start(NODES)
        assert second.policy.healer.rates.outcomes("restart", "slow") == learnt
        await again.stop()
        await second.stop()
