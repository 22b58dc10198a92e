"""Telemetry of a simulated cluster: in the record, and through the network to a policy that wants it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.scenario.documents import scenario
from tests.sim.worlds import simulate
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.vocabulary import Observation, TelemetrySample
from twin.record.reader import RunRecord, record_digest
from twin.record.schema import TELEMETRY
from twin.record.telemetry_columns import TELEMETRY_NAMES
from twin.scenario.schema import Scenario


class Reader(ClusterPolicy):
    """The default policy, which keeps what telemetry comes."""

    def __init__(self, of: Scenario) -> None:
        super().__init__(of.cluster.spec(), of.policy.parameters())
        self.came: list[tuple[float, TelemetrySample]] = []

    @property
    def reads_telemetry(self) -> bool:
        return True

    @property
    def telemetry_period_s(self) -> float:
        return 0.0

    def observe(self, now: float, observation: Observation) -> None:
        if isinstance(observation, TelemetrySample):
            self.came.append((now, observation))
        super().observe(now, observation)


def small(agents: Any = True, **changes: Any) -> Scenario:
    """Two nodes under load for 60 s, sampled each second."""
    cluster = {"nodes": 2, "models": {"llama3.1:8b": {"replicas": 2}}, "slots_per_model": 4, "agents": agents}
    settings = {"cluster": cluster, "record": {"telemetry_period_s": 1.0}, "faults": [], **changes}
    return scenario(**{"workload__duration_s": 60} | settings)


def column(record: RunRecord, name: str, node: str = "node-0") -> list[float | None]:
    rows = record.table("telemetry").to_pylist()
    return [row[name] for row in rows if row["node"] == node]


def test_the_table_has_the_columns_that_an_agent_writes_after_what_the_gateway_counts() -> None:
    assert tuple(TELEMETRY.names) == (
        "time_s",
        "node",
        "in_flight",
        "waiting",
        "resident_models",
        "health",
        *TELEMETRY_NAMES,
    )
    _, record = simulate(small())
    assert record.table("telemetry").schema.names == TELEMETRY.names


def test_nodes_that_work_more_are_warmer_and_draw_more() -> None:
    def warmth(rate_rps: float) -> tuple[float, float, float]:
        _, record = simulate(
            small(agents={"missing_share": 0.0}, workload__arrivals={"kind": "poisson", "rate_rps": rate_rps})
        )
        read = [np.mean([x for x in column(record, name)[20:60] if x is not None]) for name in
                ("gpu_utilisation", "gpu_temperature_c", "gpu_power_w")]  # fmt: skip
        return float(read[0]), float(read[1]), float(read[2])

    quiet, busy = warmth(0.2), warmth(4.0)
    assert all(less < more for less, more in zip(quiet, busy, strict=True)), (quiet, busy)


def test_the_same_seed_reads_the_same_and_samples_disturb_nothing() -> None:
    digests = {record_digest(simulate(small())[1]) for _ in range(2)}
    assert len(digests) == 1
    with_agents, without = (simulate(small(agents=agents))[1].table("requests") for agents in (True, False))
    assert with_agents.equals(without)


def test_a_share_of_the_samples_is_missing_and_what_the_gateway_counts_is_there_all_the_same() -> None:
    _, record = simulate(small(agents={"missing_share": 0.3}, workload__duration_s=600))
    telemetry = record.table("telemetry")
    share = telemetry["gpu_temperature_c"].null_count / telemetry.num_rows
    assert share == pytest.approx(0.3, abs=0.05)
    assert telemetry["memory_total_gib"].null_count == telemetry["gpu_temperature_c"].null_count, (
        "all of a sample, or none"
    )
    assert telemetry["in_flight"].null_count == 0


def test_without_agents_nothing_is_read_and_nothing_comes() -> None:
    of = small(agents=False)
    policy = Reader(of)
    _, record = simulate(of, policy=policy)
    telemetry = record.table("telemetry")
    assert {telemetry[name].null_count for name in TELEMETRY_NAMES} == {telemetry.num_rows}
    assert policy.came == []


def test_a_cut_path_delivers_no_sample() -> None:
    fault = {"kind": "partition", "at_s": 20.5, "duration_s": 20, "target": "node-0"}
    of = small(agents={"missing_share": 0.0, "late_share": 0.0}, faults=[fault])
    policy = Reader(of)
    _, record = simulate(of, policy=policy)
    reached = {
        node: {round(now) for now, sample in policy.came if sample.node == node} for node in ("node-0", "node-1")
    }
    assert reached["node-1"] >= set(range(1, 60))
    assert reached["node-0"] & set(range(1, 60)) == set(range(1, 60)) - set(range(21, 41))
    assert column(record, "memory_total_gib")[19:42] == [64.0] + [None] * 20 + [64.0, 64.0]


def test_a_sample_says_what_the_record_says_and_nothing_of_what_cannot_be_read() -> None:
    of = small(agents={"missing_share": 0.0, "late_share": 0.0})
    policy = Reader(of)
    _, record = simulate(of, policy=policy)
    sent = [sample.values for _, sample in policy.came if sample.node == "node-0"]
    rows = [row for row in record.table("telemetry").to_pylist() if row["node"] == "node-0"]
    read = [{name: row[name] for name in TELEMETRY_NAMES if row[name] is not None} for row in rows]
    assert sent == read[: len(sent)]
    assert len(sent) >= len(read) - 1
    assert "ollama_oldest_expiry_s" not in sent[0]


def test_a_late_sample_comes_later_by_what_the_scenario_says() -> None:
    of = small(agents={"missing_share": 0.0, "late_share": 0.2, "late_s": 4.0})
    policy = Reader(of)
    simulate(of, policy=policy)
    uptimes = [(now, sample.values["uptime_s"]) for now, sample in policy.came if sample.node == "node-0"]
    booted_s = min(now - uptime_s for now, uptime_s in uptimes)
    delays = [now - uptime_s - booted_s for now, uptime_s in uptimes]
    late = [delay for delay in delays if delay > 0.1]
    assert late
    assert late == pytest.approx([4.0] * len(late))
    assert len(late) / len(delays) == pytest.approx(0.2, abs=0.12)


def test_a_policy_that_reads_no_telemetry_is_not_given_any() -> None:
    of = small()
    heard: list[Observation] = []

    class Deaf(Reader):
        @property
        def reads_telemetry(self) -> bool:
            return False

        def observe(self, now: float, observation: Observation) -> None:
            heard.append(observation)
            super().observe(now, observation)

    simulate(of, policy=Deaf(of))
    assert heard
    assert not [each for each in heard if isinstance(each, TelemetrySample)]
