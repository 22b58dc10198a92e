"""Clients that ask a real node past the gateway, and models that are let go."""

from __future__ import annotations

import asyncio

import pytest

from live.rig.errors import RigError
from tests.live.conftest import MODEL, MakeNode
from tests.live.rig.test_ollama_node import generate
from twin.scenario.faults.base import ForeignClients

pytestmark = pytest.mark.real


async def test_foreign_clients_come_to_a_real_node_and_are_gone_when_they_are_told(make_node: MakeNode) -> None:
    node = await make_node()
    await generate(node)
    await node.foreign_clients(ForeignClients(3, 5, 3, think_s=0.05), MODEL, 1)
    for _ in range(200):
        if node.served_generations() > 6:
            break
        await asyncio.sleep(0.05)
    assert node.served_generations() > 6, "three clients, again and again"
    await node.stop_foreign_clients()
    await asyncio.sleep(0.2)
    before = node.served_generations()
    await asyncio.sleep(0.3)
    assert node.served_generations() == before
    with pytest.raises(RigError, match="no models of other clients"):
        await node.foreign_clients(ForeignClients(1, 1, 1, 1.0, own_models="one"), MODEL, 1)


async def test_another_num_ctx_of_theirs_makes_a_real_node_load_the_model_again(make_node: MakeNode) -> None:
    node = await make_node()
    await generate(node)
    (first,) = node.runner_pids()
    await node.foreign_clients(ForeignClients(1, 5, 1, think_s=60.0, context_tokens=512), MODEL, 1)
    for _ in range(200):
        if node.runner_pids() and node.runner_pids() != [first]:
            break
        await asyncio.sleep(0.05)
    assert node.runner_pids() != [first]


async def test_a_real_node_lets_its_models_go(make_node: MakeNode) -> None:
    node = await make_node()
    await generate(node)
    await node.expire_models()
    for _ in range(100):
        if not node.runner_pids():
            break
        await asyncio.sleep(0.05)
    assert node.runner_pids() == []
