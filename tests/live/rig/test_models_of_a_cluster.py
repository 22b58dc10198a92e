"""The models of a scenario as files for real nodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from live.rig.cluster import model_sizes
from live.rig.model_files import DEFAULT, ensure_models
from tests.live.conftest import MakeNode
from twin.scenario.schema import Cluster

TWO = {"llama3.1:8b": {"replicas": 1}, "qwen2.5:7b": {"replicas": 1}}


def cluster(models: dict[str, dict[str, int]]) -> Cluster:
    return Cluster.model_validate({"nodes": 1, "hardware": "rtx-4090", "models": models})


def test_a_lone_model_has_the_weights_that_profiles_were_measured_with() -> None:
    assert model_sizes(cluster({"llama3.1:8b": {"replicas": 1}})) == {"llama3.1:8b": DEFAULT}


def test_no_two_models_have_the_same_weights() -> None:
    sizes = model_sizes(cluster({**TWO, "mistral:7b": {"replicas": 1}}))
    assert len(set(sizes.values())) == 3
    assert {(size.embedding, size.layers) for size in sizes.values()} == {(DEFAULT.embedding, DEFAULT.layers)}


@pytest.mark.real
async def test_a_real_node_tells_of_each_of_two_models_that_it_is_loaded(
    ollama: Path, make_node: MakeNode, tmp_path: Path
) -> None:
    import aiohttp

    node = await make_node(models=await ensure_models(ollama, model_sizes(cluster(TWO))))
    async with aiohttp.ClientSession(node.address) as client:
        for name in TWO:
            async with client.post("/api/generate", json={"model": name}) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()
        async with client.get("/api/ps") as answer:
            loaded = json.loads(await answer.read())["models"]
    assert {each["name"] for each in loaded} == set(TWO)
