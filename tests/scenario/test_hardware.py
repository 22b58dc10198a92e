"""Machines and models of the catalogue, the context that follows, and what fits where at a run's start."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tests.scenario.documents import scenario
from twin.policy.views import ClusterView
from twin.scenario.hardware import REFERENCE_MODEL_GIB, Hardware, decode_step_ms
from twin.scenario.models import MODELS
from twin.scenario.profiles import EFFICIENCIES, PROFILES, TABLE
from twin.scenario.schema import Cluster
from twin.sim.conditions import Conditions
from twin.sim.memory import Memory


def cluster(hardware: Any = "rtx-4090", models: Any = None, **changes: Any) -> Cluster:
    settings = {"nodes": 2, "hardware": hardware, "models": models or {"llama3.1:8b": {"replicas": 2}}, **changes}
    return scenario(cluster=settings).cluster


# -- machines -------------------------------------------------------------------------------------------------------


def test_a_step_reads_all_weights_once() -> None:
    assert decode_step_ms(1.0, 1024.0**3 / 1e9, 1.0) == pytest.approx(1000.0)
    assert decode_step_ms(4.0, 100.0, 0.5) == 4 * decode_step_ms(2.0, 200.0, 0.5)


@pytest.mark.parametrize("name", TABLE)
def test_a_machine_of_the_catalogue_is_plausible(name: str) -> None:
    line, machine = TABLE[name], PROFILES[name]
    assert machine.decode_ms == sorted(machine.decode_ms), "a larger batch takes no less time"
    alone, eight = 1.0 / machine.decode_ms[0], 8.0 / machine.decode_ms[7]
    assert 2.0 < eight / alone < 8.0, "and serves more together"
    bytes_per_s = REFERENCE_MODEL_GIB * 1024**3 / machine.decode_ms[0] * 1000
    assert 0.2 < bytes_per_s / (line.bandwidth_gb_per_s * 1e9) < 0.9, "no faster than its memory"
    assert 5.0 <= machine.cpu_slowdown <= 20.0
    assert machine.has_gpu_memory or machine.vram_gib < machine.ram_gib
    assert (line.source == "estimate") == (line.tokens_per_s == 0.0)


def test_measured_machines_bear_out_the_estimate() -> None:
    errors = []
    for name, line in TABLE.items():
        if line.tokens_per_s:
            estimate_ms = decode_step_ms(
                REFERENCE_MODEL_GIB, line.bandwidth_gb_per_s, EFFICIENCIES[line.memory].bandwidth
            )
            errors.append(abs(estimate_ms / PROFILES[name].decode_ms[0] - 1.0))
    assert len(errors) >= 9
    assert sorted(errors)[len(errors) // 2] < 0.2
    assert max(errors) < 0.5


def test_data_centre_cards_count_memory_errors_and_others_do_not() -> None:
    counting = {name for name, machine in PROFILES.items() if machine.error_counters}
    assert counting == {"a10", "l4", "a100", "h100", "h200"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "apple", "gpus": 2}, "counts as one"),
        ({"kind": "cpu", "ram_gib": 8}, "vram_gib 24 is part of ram_gib 8"),
        ({"thermal": {"full_c": 20.0}}, "full_c 20 must be above ambient_c 25"),
        ({"thermal": {"full_w": 10.0}}, "full_w 10 must be above idle_w 20"),
        ({"thermal": {"throttle_c": 20.0}}, "throttle_c 20 must be above ambient_c 25"),
        ({"cpu_slowdown": 0.5}, "greater than or equal to 1"),
    ],
)
def test_an_impossible_machine_is_refused(changes: dict[str, Any], message: str) -> None:
    table = {"decode_ms": [10.0], "prefill_tokens_per_s": None, "vram_gib": 24, "load_gib_per_s": 2}
    with pytest.raises(ValidationError, match=message):
        Hardware.model_validate(table | changes)


def test_an_unknown_machine_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValidationError, match="unknown hardware 'rtx4090', did you mean rtx-4090"):
        cluster("rtx4090")
    with pytest.raises(ValidationError, match=r"unknown hardware 'abacus'; `ollamamax catalogue hardware`"):
        cluster("abacus")


# -- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "bytes_per_token"),
    [("llama3.1:8b", 131_072), ("llama3.1:70b", 327_680), ("qwen2.5:7b", 57_344), ("gpt-oss:20b", 49_152)],
)
def test_a_cache_follows_from_layers_heads_and_head_size(model: str, bytes_per_token: int) -> None:
    assert MODELS[model].kv_mib_per_1k_tokens == pytest.approx(bytes_per_token * 1000 / 2**20)


def test_what_ollama_serves_one_at_a_time_has_one_slot_whatever_is_set() -> None:
    it = cluster(
        models={"llama3.1:8b": {"replicas": 1}, "qwen3-vl:8b": {"replicas": 1}, "bge-m3": {}}, slots_per_model=4
    )
    assert [(spec.name, spec.slots) for spec in it.spec().models] == [
        ("llama3.1:8b", 4),
        ("qwen3-vl:8b", 1),
        ("bge-m3", 1),
    ]


def test_there_are_at_least_twenty_models_and_embeddings_among_them() -> None:
    assert len(MODELS) >= 20
    assert sum(model.embedding for model in MODELS.values()) >= 3


# -- context and room -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hardware", "tokens"),
    [("rtx-3060", 4096), ("rtx-4090", 32_768), ("h100", 131_072), ("cpu-16-core", 4096), ("m2-ultra", 131_072)],
)
def test_where_no_context_is_given_it_goes_by_gpu_memory_and_by_what_the_model_knows(
    hardware: str, tokens: int
) -> None:
    assert cluster(hardware).context_of("llama3.1:8b") == tokens


def test_a_mixed_fleet_has_the_smallest_machines_context() -> None:
    groups = [{"count": 1, "hardware": "h100"}, {"count": 1, "hardware": "rtx-3060"}]
    assert scenario(cluster={"groups": groups, "models": {"llama3.1:8b": {}}}).cluster.context_of("llama3.1:8b") == 4096


def test_a_context_that_leaves_no_room_for_the_other_models_is_not_taken() -> None:
    models = {"llama3.1:8b": {"replicas": 2}, "qwen2.5:7b": {"replicas": 0}}
    assert cluster(models=models, slots_per_model=4).context_of("llama3.1:8b") == 4096
    assert cluster(models=models, slots_per_model=4, context_tokens=32_768).context_of("llama3.1:8b") == 32_768


def test_a_model_that_no_gpu_holds_is_split_over_those_of_a_node() -> None:
    two = PROFILES["rtx-3090"].model_copy(update={"gpus": 2})
    models = {"llama3.3:70b": {"replicas": 2}}
    assert cluster(two.model_dump(), models).spec().placement == {
        "node-0": ("llama3.3:70b",),
        "node-1": ("llama3.3:70b",),
    }
    with pytest.raises(
        ValidationError, match=r"llama3.3:70b needs 41\.2 GiB and fits no node \(the largest has 24 GiB\)"
    ):
        cluster("rtx-3090", models)


def test_replicas_that_would_evict_each_other_are_refused() -> None:
    big = {"size_gib": 10.0, "kv_mib_per_1k_tokens": 0}
    models = {"a": big, "b": big}
    assert cluster(models=models).spec().placement == {"node-0": ("a",), "node-1": ("b",)}
    with pytest.raises(ValidationError, match=r"1 replicas of b \(11\.5 GiB each\) do not fit: 0 nodes have room"):
        cluster(models={"a": big | {"replicas": 2}, "b": big | {"size_gib": 11.5}})


def test_no_more_models_are_placed_than_a_node_keeps() -> None:
    small = {"size_gib": 1.0, "kv_mib_per_1k_tokens": 0, "replicas": 2}
    models = {name: small for name in "abc"}
    assert cluster(models=models).spec().placement["node-0"] == ("a", "b", "c")
    with pytest.raises(ValidationError, match="0 nodes have room"):
        cluster(models=models | {"d": small})
    with pytest.raises(ValidationError, match="0 nodes have room"):
        cluster(models=models, max_loaded_models=2)


def test_what_a_policy_thinks_fits_really_fits_and_the_other_way_round() -> None:
    models = {
        name: {"size_gib": size, "kv_mib_per_1k_tokens": 0, "replicas": 0}
        for name, size in {"a": 10.0, "b": 6.0, "c": 11.2, "d": 11.3, "e": 4.0, "f": 1.0, "g": 24.0}.items()
    }
    for gpus in (1, 2):
        machine = PROFILES["rtx-4090"].model_copy(update={"gpus": gpus})
        it = cluster(machine.model_dump(), models)
        for loaded in ((), ("a",), ("a", "b"), ("e", "f"), ("e", "f", "b")):
            view = ClusterView(it.spec(), scenario().policy.parameters()).nodes["node-0"]
            memory = Memory(machine, Conditions())
            for name in loaded:
                view.replicas[name].resident = True
                placement = memory.fit(it.memory_gib(name), 0.0)
                assert placement is not None
                memory.take(name, placement)
            for name in models:
                if name in loaded:
                    continue
                placement = memory.fit(it.memory_gib(name), 0.0)
                whole = placement is not None and not placement.ram_gib
                assert (view.free_gib() >= it.memory_gib(name)) == whole, (gpus, loaded, name)
