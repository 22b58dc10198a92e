"""A scenario that does not stand is refused in one line: what, where, what to do."""

from __future__ import annotations

from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from pydantic import ValidationError

from tests.scenario.documents import document, scenario
from twin.errors import OperatorError
from twin.scenario.faults import FAULT_KINDS
from twin.scenario.loader import ScenarioError, changed, json_schema, load
from twin.scenario.schema import Scenario

TEXT = """\
schema: 1
name: small
claim: It works.
cluster:
  nodes: 2
  models: {llama3.1:8b: {replicas: 2}}
workload:
  arrivals: {kind: poisson, rate_rps: 2.0}
  prompt_tokens: {kind: constant, mean: 100}
  output_tokens: {kind: exponential, mean: 80}
  duration_s: 40
faults:
  - {kind: server_crash, at_s: 10, target: node-0}
expect: {requests_lost: {max: 0}}
"""
SHIPPED = sorted((Path(__file__).parents[2] / "scenarios").glob("*.yaml"))


def refused(tmp_path: Path, text: str, *changes: str) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError) as error:
        load(path, changes)
    message = str(error.value)
    assert "\n" not in message
    return message.replace(f"{tmp_path}/", "")


def without(old: str, new: str) -> str:
    assert TEXT.count(old) == 1
    return TEXT.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  nodes: 2", "  node: 2", "small.yaml:5: unknown key cluster.node; did you mean nodes?"),
        (
            "duration_s: 40",
            "duration_s: 40\n  dedline_s: 3",
            "small.yaml:12: unknown key workload.dedline_s; did you mean deadline_s?",
        ),
        (
            "rate_rps: 2.0",
            "rate: 2.0",
            "small.yaml:8: unknown key workload.arrivals.rate; did you mean rate_rps? (and 1 more)",
        ),
        (
            "rate_rps: 2.0",
            "rate_rps: -1",
            "small.yaml:8: workload.arrivals.rate_rps: input should be greater than 0, not -1",
        ),
        ("  duration_s: 40\n", "", "small.yaml:7: workload.duration_s is missing"),
        (
            "kind: server_crash",
            "kind: server_crsh",
            "small.yaml:13: faults.0: unknown kind server_crsh; did you mean server_crash?",
        ),
        (
            "kind: server_crash",
            "kind: earthquake",
            f"small.yaml:13: faults.0: unknown kind earthquake; there are {', '.join(FAULT_KINDS)}",
        ),
        (
            "at_s: 10,",
            "at_s: 10, latency_ms: 3,",
            "small.yaml:13: unknown key faults.0.latency_ms; "
            "known here: at_s, comes_to_nothing, duration_s, in_answer, kind, lead_s, target",
        ),
        (
            "target: node-0",
            "target: node-9",
            "small.yaml:13: faults[0]: target 'node-9' is no node (node-0 to node-1), random, random(N) or all",
        ),
        ("target: node-0", "target: random(3)", "small.yaml:13: faults[0]: target random(3) of a cluster of 2 nodes"),
        (
            "target: node-0",
            "target: {rack: r1}",
            "small.yaml:13: faults[0]: target: unknown rack 'r1'; the cluster has no racks; give cluster.network.racks",
        ),
        ("at_s: 10", "at_s: 99", "small.yaml:13: faults[0]: at_s 99 is after the load's end (70 s)"),
        (
            "requests_lost:",
            "requests_lots:",
            "small.yaml:14: expect: unknown figure 'requests_lots'; `ollamamax catalogue metrics` lists them",
        ),
        ("{max: 0}", "{}", "small.yaml:14: expect.requests_lost: give max or min"),
        (
            "{llama3.1:8b: {replicas: 2}}",
            "{llama3.1:70b: {replicas: 1}}",
            "small.yaml:4: cluster: model llama3.1:70b needs 41.2 GiB and fits no node (the largest has 24 GiB)",
        ),
        (
            "{llama3.1:8b: {replicas: 2}}",
            "{llama3.1:8b: {replicas: 3}}",
            "small.yaml:4: cluster: 3 replicas of llama3.1:8b (8.6 GiB each) do not fit: "
            "2 nodes have room (at most 24.0 GiB are free on a node; beside others Ollama fills 80 %)",
        ),
        (
            "{llama3.1:8b: {replicas: 2}}",
            "{mine: {replicas: 1}}",
            "small.yaml:4: cluster: the size of model mine is not known; give size_gib and kv_mib_per_1k_tokens",
        ),
        (
            "  nodes: 2",
            "  nodes: 2\n  hardware: rtx-9999",
            "small.yaml:4: cluster: unknown hardware 'rtx-9999', did you mean rtx-5090?; "
            "`ollamamax catalogue hardware` lists the profiles, or give a table",
        ),
        (
            "claim: It works.\n",
            "claim: It works.\nclaim: Twice.\n",
            "small.yaml:4: claim stands here a second time; keep one",
        ),
        ("claim: It works.", "claim: [It works.", "small.yaml:4: no valid YAML: expected ',' or ']', but got ':'"),
        ("name: small", "name: large", "small.yaml:2: name is large, the file is called small; make them the same"),
        ("schema: 1", "schema: 2", "small.yaml:1: schema: input should be 1, not 2"),
    ],
)
def test_a_spoilt_file_is_refused_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert refused(tmp_path, without(old, new)) == message


def test_the_presets_and_parameters_of_the_policy_are_known(tmp_path: Path) -> None:
    assert refused(tmp_path, TEXT + "policy: {preset: brave}\n") == (
        "small.yaml:15: policy.preset: unknown preset 'brave'; there are none, reactive, default"
    )
    assert refused(tmp_path, TEXT + "policy: {overrides: {healer.coldown_s: 3}}\n") == (
        "small.yaml:15: policy.overrides: unknown policy parameter healer.coldown_s; did you mean healer.cooldown_s?"
    )
    assert refused(tmp_path, TEXT + "policy: {overrides: {healer.cooldown_s: -3}}\n") == (
        "small.yaml:15: policy.overrides: healer.cooldown_s takes 0 to 3600 s, not -3.0"
    )


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError) as error:
        load(tmp_path / "nowhere.yaml")
    assert str(error.value) == (
        f"{tmp_path}/nowhere.yaml: No such file or directory; "
        "give the path of a scenario file, e.g. scenarios/node-crash.yaml"
    )


def test_a_file_that_is_no_text_or_no_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ScenarioError, match="it is not UTF-8 text; give the path"):
        load(tmp_path / "bytes.yaml")
    assert refused(tmp_path, "- 1\n- 2\n") == (
        "small.yaml:1: a scenario is a mapping of keys (schema, name, claim, cluster, workload ...)"
    )
    assert refused(tmp_path, "").startswith("small.yaml:1: a scenario is a mapping of keys")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("cluster.nodes", "--set cluster.nodes: write KEY=VALUE, e.g. --set cluster.nodes=15"),
        ("=3", "--set =3: write KEY=VALUE, e.g. --set cluster.nodes=15"),
        ("cluster.nodes=[", "--set cluster.nodes=[: the value is no valid YAML"),
        ("faults.7.at_s=3", "--set faults.7.at_s=3: 7 is no place in a list of 1 (the first is 0)"),
        ("faults.x=3", "--set faults.x=3: x is no place in a list of 1 (the first is 0)"),
        ("cluster.nods=3", "small.yaml:4: unknown key cluster.nods; did you mean nodes?"),
        (
            "policy.healer.hold=3",
            "small.yaml: policy.overrides: unknown policy parameter healer.hold; did you mean healer.hold_s?",
        ),
    ],
)
def test_a_spoilt_change_is_refused(tmp_path: Path, change: str, message: str) -> None:
    assert refused(tmp_path, TEXT, change) == message


def test_changes_reach_every_kind_of_key(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(TEXT, encoding="utf-8")
    scenario = load(
        path,
        [
            "cluster.nodes=5",
            "cluster.models.llama3.1:8b.replicas=4",
            "policy.preset=reactive",
            "policy.healer.enabled=true",
            "policy.overrides.healer.hold_s=9",
            "faults.0.at_s=20",
            "workload.arrivals={kind: constant, rate_rps: 3}",
            "steady_state.success_ratio.min=0.9",
        ],
    )
    assert scenario.cluster.nodes == 5
    assert scenario.cluster.models["llama3.1:8b"].replicas == 4
    assert scenario.policy.parameters().healer.enabled is True
    assert scenario.policy.parameters().healer.hold_s == 9.0
    assert scenario.faults[0].at_s == 20
    assert scenario.workload.arrivals.kind == "constant"
    assert scenario.steady_state.success_ratio.min == 0.9


def test_nodes_and_groups_put_each_other_aside() -> None:
    small = Scenario.model_validate(document())
    grouped = changed(small, ["cluster.groups=[{count: 3, hardware: h100}]"])
    assert (grouped.cluster.nodes, len(grouped.cluster.node_names())) == (None, 3)
    again = changed(grouped, ["cluster.nodes=4"])
    assert (again.cluster.groups, len(again.cluster.node_names())) == (None, 4)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_scenario_stands_and_has_a_claim_with_limits(path: Path) -> None:
    scenario = load(path, files=False)
    assert scenario.name == path.stem
    assert scenario.expect, "a claim needs something to judge it by"
    assert scenario.claim.endswith(".")
    assert scenario.why
    hours = scenario.replications * scenario.workload.duration_s / 3600
    assert scenario.replications >= 20 or hours > 2, "few runs are enough only where they are long"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_published_json_schema_accepts_the_shipped_scenarios(path: Path) -> None:
    jsonschema.Draft202012Validator(json_schema()).validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_the_published_json_schema_refuses_what_the_loader_refuses() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.validate(document())
    for spoilt in (
        document(cluster__nods=3),
        document(workload__arrivals={"kind": "poisson", "rate_rps": -1}),
        document(faults=[{"kind": "earthquake", "at_s": 3}]),
        document(schema=2),
    ):
        assert not validator.is_valid(spoilt)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"live": {"slots_per_model": 64}}, "live: model llama3.1:8b needs"),
        ({"expect": {"requests_lost": {"min": 5, "max": 1}}}, "min 5 is above max 1: nothing can keep to both"),
        ({"record": {"telemetry_period_s": 1e-9}}, "greater than or equal to 0.05"),
        ({"workload__deadline_s": 1e308}, "less than or equal to 1000000"),
    ],
)
def test_what_could_never_hold_or_never_end_is_refused(changes: dict[str, object], line: str) -> None:
    with pytest.raises(ValidationError) as error:
        scenario(**changes)
    assert line in str(error.value)
