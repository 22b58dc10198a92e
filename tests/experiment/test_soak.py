"""A soak finds what breaks an invariant, and shrinks it to a small scenario that does so again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.record.runs import READ, Run
from tests.scenario.documents import scenario
from twin.errors import OperatorError
from twin.experiment.engines import LocalEngine
from twin.experiment.reached import RARITIES, reached
from twin.experiment.run import replay_run, run_scenario
from twin.experiment.shrink import Shrinker, shrink, soak_and_shrink
from twin.experiment.soak import RUNS_TO_ITS_END, examine, for_mode, judged, soak
from twin.experiment.soak_folder import SOAK
from twin.experiment.study import RESULTS
from twin.experiment.timeline import pinned
from twin.experiment.twin_world import TwinWorld
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.healer import WITHHELD
from twin.policy.parameters import Parameters
from twin.policy.vocabulary import Action, ClusterSpec, Command, Observation, Policy, RequestSpec, Route
from twin.record.reader import RunRecord
from twin.scenario.generators import drawn_policy, expanded
from twin.scenario.loader import as_document, load
from twin.scenario.schema import Scenario

FAULTS = [
    {"kind": "runner_crash", "at_s": 4},
    {"kind": "slow_network", "at_s": 6, "duration_s": 8, "latency_ms": 200},
    {"kind": "partition", "at_s": 8, "duration_s": 4},
    {"kind": "server_crash", "at_s": 12, "duration_s": 12},
    {"kind": "scheduler_deadlock", "at_s": 14},
    {"kind": "runner_hang", "at_s": 16, "duration_s": 10},
]


def troubled(**changes: Any) -> Scenario:
    """Four nodes, six faults in 40 s, each on a node that the seed draws."""
    return scenario(
        **{
            "cluster__nodes": 4,
            "cluster__models": {"llama3.1:8b": {"replicas": 3}, "llama3.2:1b": {"replicas": 0}},
            "workload__models": {"llama3.1:8b": 1.0},
            "policy": {"overrides": {"probes.load_path_model": "llama3.2:1b", "router.slow_start_s": 0}},
            "faults": FAULTS,
            "record": {"journal": False},
        }
        | changes
    )


class ForgetsDrains(ClusterPolicy):
    """Broken on purpose: forgets at once that it has drained a node, and so sends requests there."""

    def decide(self, now: float) -> Sequence[Command]:
        commands = super().decide(now)
        for command in commands:
            if isinstance(command, Action) and command.kind == "drain":
                node = self.view.nodes[command.node]
                self.view.happened(node, "return", now)
                self.view.happened(node, "passed", now)
        return commands


class Forgetful(ClusterPolicy):
    """Broken on purpose: after a refused connection it never lets any incident be closed."""

    def decide(self, now: float) -> Sequence[Command]:
        commands = super().decide(now)
        for incident in self.incidents:
            if incident.diagnosis == "server_down" and incident.state == "closed":
                incident.state = "holding"
        return commands


class Crashing(ClusterPolicy):
    """Broken on purpose: fails where it is told that nobody listened."""

    def observe(self, now: float, observation: Observation) -> None:
        if getattr(observation, "error", "") == "refused":
            raise RuntimeError("I did not think of that")
        super().observe(now, observation)


class Broken(TwinWorld):
    """The simulated world with a broken policy."""

    def __init__(self, policy: type[ClusterPolicy]) -> None:
        self.broken = policy

    def policy(self, scenario: Scenario) -> Policy:
        return self.broken(scenario.cluster.spec(), scenario.policy.parameters())


DRAIN = "no_dispatch_to_a_drained_node"


def test_a_broken_policy_is_found_and_shrunk_to_the_one_fault_that_it_takes(tmp_path: Path) -> None:
    world = Broken(ForgetsDrains)
    found = soak_and_shrink(troubled(), range(1, 5), "safety", LocalEngine(1), tmp_path, world=world)
    assert found["verdict"] == "fail"
    broken = next(it for it in found["broken"] if it["invariant"] == DRAIN)
    assert found["invariants"][DRAIN] == len(broken["seeds"]) > 0
    assert broken["reproduces"] is True
    path = Path(broken["file"])
    small = load(path)
    assert path.parent == Path(found["folder"])
    assert [fault.about.kind for fault in small.faults] == ["scheduler_deadlock"]
    assert small.workload.duration_s < troubled().workload.duration_s
    assert small.cluster.nodes is not None
    assert small.cluster.nodes < 4
    assert broken["first"] and broken["runs_to_shrink"] < 150
    ran = run_scenario(world, small, None, lambda line: None).summary
    assert (ran["verdict"], ran["invariants"][DRAIN] > 0) == ("fail", True)
    sound = run_scenario(TwinWorld(), small, None, lambda line: None).summary
    assert not any(sound["invariants"].values()), "the fault is the policy's, not the scenario's"
    assert json.loads((Path(found["folder"]) / SOAK).read_text(encoding="utf-8")) == found


def test_what_never_heals_is_found_in_liveness_mode_only() -> None:
    world = Broken(Forgetful)
    faults = [{"kind": "server_crash", "at_s": 12, "target": "node-0", "duration_s": 12}]
    it = troubled(faults=faults, settle_s=60.0)
    assert examine(for_mode(it, "safety"), 1, "safety", world)["violations"] == {}
    found = examine(for_mode(it, "liveness"), 1, "liveness", world)
    assert set(found["violations"]) == {"no_incident_stays_open"}
    assert "is holding" in found["first"]["no_incident_stays_open"]
    assert examine(for_mode(it, "both"), 1, "both", TwinWorld())["violations"] == {}


def test_two_faults_that_only_together_break_it_both_stay() -> None:
    class Both(Shrinker):
        def breaks(self, document: dict[str, Any]) -> bool:
            self.runs += 1
            return {"partition", "runner_hang"} <= {fault["kind"] for fault in document["faults"]}

    small = Both(DRAIN, 1, "safety", TwinWorld())
    document = small.shrink(as_document(pinned(troubled(faults=FAULTS * 4), 1)))
    assert sorted(fault["kind"] for fault in document["faults"]) == ["partition", "runner_hang"]
    assert all(fault["duration_s"] < 2.0 for fault in document["faults"])


def test_an_interrupted_soak_says_what_it_saw_and_where_to_go_on(tmp_path: Path) -> None:
    class Interrupted:
        def results(self, work: Any, tasks: Sequence[Any]) -> Iterator[Any]:
            yield work(tasks[1])  # results come in any order
            yield work(tasks[0])
            raise KeyboardInterrupt

    found = soak_and_shrink(troubled(workload__duration_s=21), range(5, 10), "safety", Interrupted(), tmp_path)
    assert (found["verdict"], found["seeds"], found["seeds_wanted"]) == ("unknown", 2, 5)
    assert found["stopped"] == "interrupted after 2 of 5 seeds"
    assert found["first_unfinished"] == 7


def test_a_resumed_soak_runs_only_the_seeds_that_are_missing_and_finds_the_same(tmp_path: Path) -> None:
    class Once:
        """Breaks off after two seeds."""

        def results(self, work: Any, tasks: Sequence[Any]) -> Iterator[Any]:
            yield from (work(task) for task in tasks[:2])
            raise KeyboardInterrupt

    class Counting:
        """Notes which seeds are run."""

        def __init__(self) -> None:
            self.seeds: list[int] = []

        def results(self, work: Any, tasks: Sequence[Any]) -> Iterator[Any]:
            self.seeds = [task.seed for task in tasks]
            yield from map(work, tasks)

    it = troubled(workload__duration_s=21)
    first = soak_and_shrink(it, range(1, 4), "safety", Once(), tmp_path)
    folder = Path(first["folder"])
    assert len((folder / RESULTS).read_text().splitlines()) == 2
    with (folder / RESULTS).open("a") as file:
        file.write('{"seed": 3, "viol')  # it was killed while it wrote
    counting = Counting()
    again = soak_and_shrink(it, range(1, 5), "safety", counting, tmp_path, resume=folder)
    assert counting.seeds == [3, 4]
    whole = soak_and_shrink(it, range(1, 5), "safety", LocalEngine(1), tmp_path)
    for summary in (again, whole):
        for key in ("wall_s", "wall_s_for_10000", "folder"):
            del summary[key]
    assert again == whole


def test_only_the_same_soak_can_be_resumed(tmp_path: Path) -> None:
    it = troubled(workload__duration_s=21)
    folder = Path(soak_and_shrink(it, [1], "safety", LocalEngine(1), tmp_path)["folder"])
    with pytest.raises(OperatorError, match="its mode was safety, now it is both; start the soak anew"):
        soak_and_shrink(it, [1], "both", LocalEngine(1), tmp_path, resume=folder)
    with pytest.raises(OperatorError, match="its digest was"):
        soak_and_shrink(troubled(workload__duration_s=25), [1], "safety", LocalEngine(1), tmp_path, resume=folder)
    with pytest.raises(OperatorError, match=r"there is no soak\.json; give the folder of a soak"):
        soak_and_shrink(it, [1], "safety", LocalEngine(1), tmp_path, resume=tmp_path)
    (folder / RESULTS).write_text("{}\n")
    with pytest.raises(OperatorError, match=r"results\.jsonl:1: not a result of this version"):
        soak_and_shrink(it, [1], "safety", LocalEngine(1), tmp_path, resume=folder)


def test_a_simulator_that_fails_is_a_finding_and_no_end_of_the_soak() -> None:
    found = soak(troubled(), [1, 2, 3], "both", LocalEngine(1), world=Broken(Crashing))
    assert [row["seed"] for row in found.rows] == [1, 2, 3]
    assert set(found.broken) == {RUNS_TO_ITS_END}
    first = next(row["first"] for row in found.rows if row["violations"])
    assert first[RUNS_TO_ITS_END].startswith("RuntimeError: I did not think of that (test_soak.py:")


def test_a_violation_that_does_not_come_again_is_said() -> None:
    with pytest.raises(OperatorError, match=f"seed 3 does not break {DRAIN} again"):
        shrink(troubled(faults=[]), 3, DRAIN, "safety", TwinWorld())


def test_a_run_with_its_faults_written_down_is_the_same_run() -> None:
    it = troubled(faults=[{"kind": "server_crash", "at_s": 5, "target": "random(2)", "duration_s": 5}, *FAULTS])
    written = pinned(it, 7)
    assert len(written.faults) == 8
    assert all(str(fault.target).startswith("node-") for fault in written.faults)
    one = TwinWorld().run(it, 7, None, lambda line: None)
    two = TwinWorld().run(written, 7, None, lambda line: None)
    assert one.table("requests").equals(two.table("requests"))
    assert one.table("incidents").equals(two.table("incidents"))


def test_one_process_or_two_find_the_same() -> None:
    it = troubled(workload__duration_s=20)
    one, two = (soak(it, range(1, 5), "both", LocalEngine(jobs)).rows for jobs in (1, 2))
    for row in (*one, *two):
        del row["wall_s"]
    assert one == two


@pytest.mark.parametrize("mode", ["safety", "liveness", "both"])
def test_the_settle_phase_comes_with_liveness(mode: Any) -> None:
    assert (for_mode(troubled(), mode).settle_s > 0) == (mode != "safety")
    assert for_mode(troubled(settle_s=7.0), "both").settle_s == 7.0
    assert judged(mode, DRAIN) == (mode != "liveness")
    assert judged(mode, "every_node_is_back") == (mode != "safety")
    assert judged(mode, RUNS_TO_ITS_END)


def test_after_the_load_every_fault_is_ended_and_the_run_goes_on_until_all_is_well() -> None:
    faults = [
        {"kind": "server_crash", "at_s": 39, "target": "node-0"},
        {"kind": "runner_hang", "at_s": 39, "target": "all"},
    ]
    record = TwinWorld().run(troubled(faults=faults, settle_s=90.0), 1, None, lambda line: None)
    assert record.manifest["simulated_s"] >= 130.0
    assert {row["ended_by"] for row in record.table("faults").to_pylist()} <= {"schedule", "action"}
    assert not any(record.manifest["invariants"].values())
    assert "every_node_is_back" in record.manifest["invariants"]
    hasty = TwinWorld().run(troubled(faults=faults, settle_s=0.5, workload__deadline_s=1), 1, None, lambda line: None)
    assert hasty.manifest["invariants"]["every_node_is_back"] > 0, "half a second is not enough"


# -- the harsh soak ----------------------------------------------------------------------------------------------------


class TooStubborn(ClusterPolicy):
    """Broken on purpose: two attempts more than are allowed."""

    def __init__(self, spec: ClusterSpec, parameters: Parameters) -> None:
        super().__init__(spec, parameters)
        allowed = self.router.retry.attempts_max
        self.router.retry = dataclasses.replace(self.router.retry, attempts_max=allowed + 2)


class Spendthrift(ClusterPolicy):
    """Broken on purpose: a retry costs nothing of the budget."""

    def route(self, now: float, request: RequestSpec, attempt: int) -> Route:
        budget = self.router.budget
        route = super().route(now, request, attempt)
        if attempt:
            self.router.budget = budget
        return route


HARSH = Path(__file__).parents[2] / "scenarios" / "harsh-soak.yaml"


@pytest.mark.parametrize("policy", [TooStubborn, Spendthrift])
def test_the_harsh_soak_finds_within_ten_seeds_what_retries_beyond_its_limits(policy: type[ClusterPolicy]) -> None:
    it = load(HARSH, ["record.journal=false"])
    found: dict[str, list[int]] = {}
    for seed in range(1, 11):
        found = soak(it, [seed], "safety", LocalEngine(1), world=Broken(policy)).broken
        if found:
            break
    assert set(found) == {"retries_within_budget"}


class Floorless(ClusterPolicy):
    """Broken on purpose: sets nodes aside however few replicas are left."""

    def __init__(self, spec: ClusterSpec, parameters: Parameters) -> None:
        super().__init__(spec, parameters)
        self.healer.parameters = dataclasses.replace(self.healer.parameters, replicas_min=0)


def test_the_harsh_soak_finds_within_ten_seeds_a_repair_that_ignores_the_floor_of_replicas() -> None:
    it = load(HARSH, ["record.journal=false"])
    found: dict[str, list[int]] = {}
    for seed in range(1, 11):
        row = examine(for_mode(it, "safety"), seed, "safety", Broken(Floorless))
        if row["violations"]:
            found = row["first"]
            break
    assert set(found) == {"replica_floor"}
    assert "draining" in found["replica_floor"]
    record = TwinWorld().run(for_mode(it, "safety"), seed, None, lambda line: None)
    assert not record.manifest["invariants"]["replica_floor"]
    assert "withheld_for_the_floor" in reached(record), "the sound policy waits in the same run"


def test_a_seed_draws_its_policy_and_a_replay_of_its_run_knows_it(tmp_path: Path) -> None:
    drawing = {"kind": "swarm", "duration": {"kind": "constant", "mean_s": 5}, "policy": CHOICES}
    it = troubled(faults=[], fault_generators=[drawing], record={"journal": True})
    drawn = {json.dumps(drawn_policy(it, seed)) for seed in range(30)}
    assert len(drawn) == 6, "every combination comes up"
    for seed in (1, 2, 3):
        whole = expanded(it, seed)
        assert whole.policy.overrides == {
            "router.slow_start_s": 0,
            "probes.load_path_model": "llama3.2:1b",
        } | drawn_policy(it, seed)
        record = TwinWorld().run(it, seed, tmp_path / str(seed), lambda line: None)
        assert record.manifest["policy_drawn"] == drawn_policy(it, seed)
        assert replay_run(tmp_path / str(seed)).same
        assert pinned(it, seed).policy == whole.policy, "and so it is written down when it is shrunk"


CHOICES = {"retry.attempts_max": [0, 1, 2], "admission.enabled": [True, False]}


def test_shrinking_leaves_away_signs_and_what_the_policy_drew_where_they_do_not_matter() -> None:
    class Stubborn(Shrinker):
        def breaks(self, document: dict[str, Any]) -> bool:
            self.runs += 1
            return document["policy"]["overrides"].get("retry.attempts_max") == 2

    faults = [
        {"kind": "slow_decay", "at_s": 20, "lead_s": 10, "target": "node-0"},
        {"kind": "impatient_clients", "at_s": 5},
    ]
    overrides = {"retry.attempts_max": 2, "admission.enabled": False}
    it = as_document(pinned(troubled(faults=faults, policy={"overrides": overrides}), 1))
    small = Stubborn(DRAIN, 1, "safety", TwinWorld()).shrink(it)
    assert (small["faults"], small["policy"]["overrides"]) == ([], {"retry.attempts_max": 2})

    class Decaying(Shrinker):
        def breaks(self, document: dict[str, Any]) -> bool:
            self.runs += 1
            return bool(document["faults"])

    (fault,) = Decaying(DRAIN, 1, "safety", TwinWorld()).shrink(it | {"faults": it["faults"][:1]})["faults"]
    assert "lead_s" not in fault


# -- what was reached -------------------------------------------------------------------------------------------------


def made(name: str) -> RunRecord:
    """A run in which the rare thing of that name happened."""
    run = Run().every(1.0, 1.0, 5.0)
    if name == "request_retried":
        run.request(1.0, 2.0, attempts=2)
    elif name == "request_retried_twice":
        run.recorder.attempts.add((1, 1, "node-0", 1.0, None, 2.0, "reset", 0))
    elif name == "moved_in_mid_stream":
        run.recorder.attempts.add((1, 0, "node-0", 1.0, 1.2, 1.4, "reset", 3))
    elif name == "waited_at_the_gateway":
        run.request(1.0, 9.0, dispatched_s=1.5)
    elif name == "turned_away":
        run.request(1.0, 1.0, admitted=False, outcome="rejected")
    elif name == "given_up":
        run.request(1.0, 9.0, outcome="failed", error="retries exhausted")
    elif name in ("attempts_used_up", "budget_spent"):
        ends = {"attempts_used_up": "reset: all 3 attempts failed", "budget_spent": "reset: the retry budget is spent"}
        run.request(1.0, 9.0, outcome="failed", error=ends[name])
    elif name == "rack_failed":
        run.fault(3.0, kind="rack_failure")
    elif name in ("failed_after_signs", "averted", "came_to_nothing"):
        outcome = {"failed_after_signs": "failed", "averted": "averted", "came_to_nothing": "nothing"}[name]
        run.recorder.signs.add((0, "slow_decay", "node-0", 1.0, 5.0, 3.0, outcome))
    elif name == "deadline_missed":
        run.request(1.0, 61.0, outcome="deadline", error="deadline")
    elif name in ("first_token_timeout", "stall_timeout", "refused"):
        run.failed_attempt(3.0, error=name)
    elif name in ("connections_aborted", "restarted", "drained", "replica_loaded"):
        kinds = {"connections_aborted": "abort", "restarted": "restart", "drained": "drain", "replica_loaded": "load"}
        run.action(3.0, kind=kinds[name])
    elif name == "action_failed":
        run.recorder.actions.add(
            (1, 1.0, "restart", "node-0", "", "why", 1.0, 9.0, "failed", 2.0, "refused", "gateway-0")
        )
    elif name == "withheld_for_the_floor":
        run.incident(3.0, evidence=f"no load ends; {WITHHELD} 2")
    elif name == "escalated":
        run.incident(3.0, actions=2)
    elif name == "two_nodes_at_once":
        run.fault(3.0, ended_s=9.0).fault(5.0, node="node-1", ended_s=6.0, fault_id=1)
    elif name == "two_faults_on_a_node":
        run.fault(3.0, ended_s=9.0).fault(5.0, ended_s=6.0, fault_id=1)
    elif name == "nobody_serves":
        for time_s, healths in ((5.0, ("serving", "down")), (10.0, ("suspect", "down"))):
            for place, health in enumerate(healths):
                run.recorder.telemetry.add((time_s, f"node-{place}", 0, 0, 1, health, *READ))
    elif name == "aborted":
        return run.end(aborted="at 9 s: no success")
    else:
        raise AssertionError(f"no run for {name}")
    return run.end()


@pytest.mark.parametrize("name", [rarity.name for rarity in RARITIES])
def test_a_rare_thing_is_met_where_it_happened_and_not_elsewhere(name: str) -> None:
    assert name in reached(made(name))
    assert reached(Run().every(1.0, 1.0, 5.0).end()) == []
