"""Real components and what runs on them, for the tests of the live world."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from live.rig.components import ComponentUnavailable, find
from live.rig.ledger import Ledger, end_leftovers
from live.rig.model_files import TINY, ensure_models
from live.rig.ollama_node import OllamaNode

MODEL = "llama3.1:8b"
MakeNode = Callable[..., Awaitable[OllamaNode]]


def _have(component: str) -> Path:
    try:
        path = find(component)
        reason = f"{component} is not on this machine: `make components` finds or builds it"
    except ComponentUnavailable as error:
        path, reason = None, str(error)
    if path is not None:
        return path
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def ollama() -> Path:
    """The real `ollama`; the test is skipped where there is none, and fails in CI."""
    return _have("ollama")


@pytest.fixture(scope="session")
def toxiproxy_server() -> Path:
    """The real `toxiproxy-server`; the test is skipped where there is none, and fails in CI."""
    return _have("toxiproxy-server")


@pytest.fixture(scope="session")
def models(ollama: Path) -> Path:
    """A folder of models for real nodes, with the small MODEL in it."""
    return asyncio.run(ensure_models(ollama, {MODEL: TINY}))


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """A ledger that must be empty at the end of the test; what an earlier, killed test run left is ended first."""
    end_leftovers()
    ledger = Ledger()
    yield ledger
    assert ledger.is_empty, "the test left processes or cgroups behind"
    ledger.close()


@pytest.fixture
async def make_node(ollama: Path, models: Path, ledger: Ledger, tmp_path: Path) -> AsyncIterator[MakeNode]:
    """Starts real nodes by name, with the given options, and stops them after the test."""
    nodes: list[OllamaNode] = []

    async def make(name: str = "node-1", **options: object) -> OllamaNode:
        settings = {"ollama": ollama, "models": models, "folder": tmp_path / name, "ledger": ledger, **options}
        node = OllamaNode(name, **settings)  # type: ignore[arg-type]
        nodes.append(node)
        await node.start()
        return node

    yield make
    for node in nodes:
        await node.stop()
