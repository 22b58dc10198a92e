"""The table of parameters: bounds, names, and that each of them does something."""

from __future__ import annotations

import math

import pytest

from tests.policy.bench import Bench, run
from twin.policy.parameters import PRESETS, TABLE, Parameter, ParameterError, Parameters, find, preset

IDS = [parameter.key for parameter in TABLE]
CRASH = "requests 1-2\nnode-0 refuses\nended 1 reset\nadvance 4\nnode-0 works\nrestart node-0 done\nadvance 12\nshow"
HANG = "requests 1-2\nadvance 1\nnode-0 hangs\nended 1 stall_timeout\nadvance 90\nshow"
STUCK = "requests 1-2\nnode-0 cannot load\nadvance 40\nshow"
FAR = "advance 3\nnode-0 answers in 0.8 s\nadvance 8\nrequests 1-2\nshow"
LOOP = "\n".join(f"request {n}\nended {n} error_record\nadvance 1\nended {n} succeeded\nadvance 3" for n in range(1, 4))
TRIPPED = "requests 1-9\nended 1 server_error\nended 4 server_error\nended 7 server_error\nadvance 1"
ONE_GETS_SLOW = "one of the nodes gets slow"
LOADER = "probes.load_path_model=s"
LEAK = "foretell node-0 gpu_memory 0.9 in 300 s\nadvance 3"
HEAT = "foretell node-0 overheating 0.9 in 300 s\nadvance 3"
FAILING = "foretell node-0 server_failure 0.9 in 300 s\nadvance 3"
BUSY = "requests 1-4\nadvance 25\nload node-2 done"
THEN_IDLE = "\n".join(f"ended {number} succeeded" for number in range(1, 5)) + "\nadvance 320"
NEVER_HELPS = "node-0 hangs\nadvance 6\nrestart node-0 done\nadvance 80"
AGAIN = "node-0 refuses\nadvance 3\nnode-0 works\nrestart node-0 done\nadvance 12\nnode-0 refuses\nadvance 20"
"""The second restart's reason says how often the first kind has helped."""

BURNING = "\n".join(f"request {n}\nended {n} overloaded\nadvance 0.3" for n in range(1, 40)) + "\nadvance 4\n"
BURNING += "foretell node-0 gpu_memory 0.9 in 25 s\nadvance 3"

WHAT_IT_CHANGES: dict[str, tuple[object, str, str]] = {
    # key: another value, what else the cluster has, and commands of the bench whose output then differs
    "router.kind": ("least_busy", "", "requests 1-8"),
    "router.first_token_deadline_s": (12.0, "", "request 1"),
    "router.prompt_allowance_s_per_1k_tokens": (100.0, "", "request 1"),
    "router.cold_first_token_deadline_s": (
        33.0,
        "redundancy.enabled=false",
        "node-0 refuses\nnode-1 refuses\nadvance 4\nrequest 1",
    ),
    "router.zombie_grace_s": (3600.0, "probes.enabled=false", "requests 1-4 deadline 5\nadvance 25\nrequest 5"),
    "admission.enabled": (False, "", "requests 1-9"),
    "admission.queue_max": (1, "", "requests 1-9"),
    "retry.attempts_max": (0, "", "request 1\nended 1 reset"),
    "retry.after_first_token": (False, "", "request 1\nended 1 reset after 3 tokens"),
    "retry.delay_s": (3.0, "", "requests 1-4\nended 1 overloaded\nadvance 2\nshow"),
    "retry.budget_ratio": (0.0, "retry.budget_reserve=1.0", "requests 1-2\nended 1 reset\nrequests 3-8\nended 2 reset"),
    "retry.budget_reserve": (0.0, "retry.budget_ratio=0.0", "request 1\nended 1 reset"),
    "circuit_breaker.enabled": (False, "preset reactive", TRIPPED + "\nrequests 10-15"),
    "router.slow_start_s": (
        1.0,
        "",
        "operator drains node-0\nadvance 2\noperator returns node-0\nadvance 2\nrequests 1-3",
    ),
    "circuit_breaker.failure_threshold": (1, "preset reactive", "requests 1-2\nended 1 server_error\nrequests 3-6"),
    "circuit_breaker.recovery_timeout_s": (1.0, "preset reactive", TRIPPED + "\nadvance 5\nrequests 10-15"),
    "circuit_breaker.ejected_share_max": (0.1, "preset reactive", TRIPPED + "\nrequests 10-15"),
    "probes.enabled": (False, "", "node-0 refuses\nadvance 5"),
    "probes.period_s": (3.0, "", "node-0 refuses\nadvance 9"),
    "probes.timeout_s": (2.0, "", "node-0 is cut off\nadvance 9"),
    "probes.failures_to_suspect": (5, "probes.generation=false", "node-0 refuses\nadvance 9"),
    "probes.residency": (False, "probes.generation=false", "node-0 forgets\nadvance 8\nshow"),
    "probes.residency_period_s": (
        60.0,
        "probes.failures_to_suspect=20",
        "advance 3\nnode-0 answers in 1.5 s\nadvance 4",
    ),
    "probes.generation": (False, "", "node-0 hangs\nadvance 20\nshow"),
    "probes.generation_period_s": (30.0, "", "node-0 hangs\nadvance 20\nshow"),
    "probes.generation_suspect_s": (0.2, "", "node-0 hangs\nadvance 20\nshow"),
    "probes.generation_timeout_s": (9.0, "", HANG),
    "probes.load_path_model": ("s", "", STUCK),
    "probes.load_path_period_s": (35.0, LOADER, "advance 1\n" + STUCK),
    "probes.load_path_timeout_s": (3.0, LOADER, STUCK),
    "admission.deadline_aware": (
        False,
        "",
        "requests 1-4\nadvance 5\nended 1 succeeded\nended 2 succeeded\nrequests 5-6\nrequest 7 deadline 0.5",
    ),
    "admission.wait_share": (
        1.0,
        "",
        "requests 1-4\nadvance 5\nended 1 succeeded\nended 2 succeeded\nrequests 5-6\nrequest 7 deadline 4",
    ),
    "admission.outage_patience_s": (
        60.0,
        "healer.enabled=false",
        "node-0 refuses\nnode-1 refuses\nnode-2 refuses\nadvance 15\nrequest 1",
    ),
    "slowness.enabled": (False, "", FAR),
    "slowness.ratio": (100.0, "", ONE_GETS_SLOW),
    "slowness.latency_floor_s": (0.9, "", FAR),
    "slowness.failing_ratio": (100.0, "", ONE_GETS_SLOW),
    "slowness.patience_s": (100.0, "", ONE_GETS_SLOW),
    "slowness.samples_min": (500, "", ONE_GETS_SLOW),
    "healer.enabled": (False, "", CRASH.split("\nrestart", maxsplit=1)[0]),
    "healer.restart": (False, "", CRASH.split("\nrestart", maxsplit=1)[0]),
    "healer.concurrent_max": (1, "", "node-0 refuses\nnode-1 refuses\nadvance 4"),
    "healer.cooldown_s": (1.0, "", "node-0 refuses\nadvance 4\nrestart node-0 failed\nadvance 5"),
    "healer.attempts_max": (0, "", "node-0 refuses\nadvance 4"),
    "healer.unreachable_grace_s": (2.0, "", "node-0 is cut off\nadvance 12"),
    "healer.drain_timeout_s": (30.0, LOADER, STUCK),
    "healer.verify_timeout_s": (5.0, "", "node-0 refuses\nadvance 3\nnode-0 hangs\nrestart node-0 done\nadvance 30"),
    "healer.hold_s": (1.0, "", CRASH),
    "healer.crash_loop_failures": (2, "", LOOP),
    "healer.crash_loop_window_s": (5.0, "healer.crash_loop_failures=2", LOOP),
    "healer.replicas_min": (2, LOADER, STUCK),
    "healer.mode": ("advise", "", CRASH.split("\nrestart", maxsplit=1)[0]),
    "healer.period_s": (25.0, "", "node-0 refuses\nadvance 3\nrestart node-0 failed\nadvance 30\nshow"),
    "healer.kill_runner": (False, "", NEVER_HELPS),
    "healer.fetch": (
        False,
        "",
        "node-0 forgets\nnode-0 has damaged files\nrequests 1-3\nended 1 error_record\nadvance 5\n"
        "restart node-0 done\nadvance 30",
    ),
    "healer.reallocation": (False, "", "node-0 crashes\nadvance 6"),
    "healer.redistribution": (False, "", HEAT),
    "healer.failover": (False, "", CRASH.split("\nrestart", maxsplit=1)[0]),
    "healer.learning": (False, "", AGAIN),
    "healer.learning_interval_s": (600.0, "", AGAIN),
    "healer.predictive": (False, "", LEAK),
    "healer.proactive": (False, "", LEAK),
    "healer.probability_min": (0.95, "", LEAK),
    "healer.false_hard_actions_per_node_day": (0.0, "", LEAK),
    "healer.false_hard_actions_days_saved": (0.1, "", LEAK),
    "healer.look_ahead": (True, LOADER, STUCK),
    "healer.look_ahead_limit_s": (3.0, LOADER + " healer.look_ahead=true", STUCK),
    "redundancy.default_factor": (3, "", "advance 2"),
    "redundancy.max_factor": (2, "", "requests 1-4\nadvance 25"),
    "redundancy.scaling": (False, "", "requests 1-4\nadvance 25"),
    "redundancy.busy_share": (0.7, "", "requests 1-3\nadvance 25"),
    "redundancy.scale_up_after_s": (5.0, "", "requests 1-4\nadvance 25"),
    "redundancy.idle_share": (0.0, "", BUSY + "\n" + THEN_IDLE + "\nrequest 9\nadvance 300"),
    "redundancy.scale_down_after_s": (100.0, "", BUSY + "\n" + THEN_IDLE),
    "performance_tracking.enabled": (False, "retry.attempts_max=0", BURNING),
    "performance_tracking.window_s": (40.0, "retry.attempts_max=0", BURNING + "\nadvance 30"),
    "performance_tracking.period_s": (60.0, "retry.attempts_max=0", BURNING),
    "performance_tracking.objective": (0.5, "retry.attempts_max=0", BURNING),
    "redundancy.enabled": (False, "", CRASH.split("\nrestart", maxsplit=1)[0]),
    "redundancy.update_interval_s": (60.0, "", CRASH.split("\nrestart", maxsplit=1)[0]),
}


def one_gets_slow(cluster: str) -> list[str]:
    """Four requests at a time, so that both nodes get some; from the sixth time on node-0 takes thirty times as long."""
    bench = Bench()
    bench.do(cluster)
    seen: list[str] = []
    for first in range(1, 80, 4):
        batch = range(first, first + 4)
        seen += bench.do(f"requests {first}-{first + 3}")
        for node, after_s in (("node-1", 1), ("node-0", 29 if first > 20 else 0)):
            seen += bench.do(f"advance {after_s}")
            for number in batch:
                if bench.attempts.get(number, (0, ""))[1] == node:
                    seen += bench.do(f"ended {number} succeeded")
        for number in list(bench.attempts):  # those that had to wait
            seen += bench.do(f"ended {number} succeeded")
    return seen + bench.do("advance 20")


ELSEWHERE = {
    "router.stall_timeout_s": "a route carries it; see below",
    "router.patience": "see test_router.py",
    "router.normalise_names": "see test_model_names.py",
    "probes.phi_threshold": "see test_phi_accrual.py",
    "admission.learn_slots": "see test_slots.py",
    "healer.action_timeout_s": "an action's deadline; see below",
    "redundancy.load_timeout_s": "an action's deadline; see below",
    "healer.context_min_tokens": "see test_lower_context.py",
    "healer.look_ahead_horizon_s": "the horizon of a question; see below",
    "config_adaptation.enabled": "see test_adaptation.py",
    "config_adaptation.interval_s": "see test_adaptation.py",
    "config_adaptation.live": "see tests/live/controller/test_adapting.py",
    "config_adaptation.trial_limit_s": "see tests/live/controller/test_adapting.py",
    "router.prompt_limits": "see test_prompt_limits.py",
    "router.match_context": "see test_contexts.py",
    "redundancy.spread_racks": "see test_redundancy.py",
    **{key: "see predictor/test_predictor.py" for key in IDS if key.startswith("predictor.")},
    "router.connect_timeout_s": "the live gateway's: live/serve.py hands it to the upstream",
}


def test_there_are_at_least_forty() -> None:
    assert len(TABLE) >= 40
    assert len({parameter.key for parameter in TABLE}) == len(TABLE)


@pytest.mark.parametrize("parameter", TABLE, ids=IDS)
def test_the_default_stands_and_every_row_says_what_it_is(parameter: Parameter) -> None:
    assert parameter.check(parameter.default) == parameter.default
    assert parameter.sentence.endswith(".")


@pytest.mark.parametrize("parameter", TABLE, ids=IDS)
def test_bounds_and_types_are_checked(parameter: Parameter) -> None:
    default = parameter.default
    if isinstance(default, bool):
        wrong: list[object] = ["yes", 1, 0.0]
    elif isinstance(default, str):
        wrong = [3, *(["no such choice"] if parameter.choices else [])]
    else:
        assert parameter.low is not None
        assert parameter.high is not None
        wrong = ["3", True, parameter.low - 1, parameter.high + 1]
        assert parameter.check(type(default)(parameter.low)) == parameter.low
        assert parameter.check(type(default)(parameter.high)) == parameter.high
        if isinstance(default, float):
            wrong.append(math.nan)
    for value in wrong:
        with pytest.raises(ParameterError, match=rf"^{parameter.key} takes "):
            parameter.check(value)


def test_a_whole_number_will_do_for_a_number_but_not_the_other_way() -> None:
    assert find("healer.hold_s").check(3) == 3.0
    with pytest.raises(ParameterError) as error:
        find("retry.attempts_max").check(2.0)
    assert str(error.value) == "retry.attempts_max takes a whole number, not 2.0"


@pytest.mark.parametrize("parameter", [p for p in TABLE if p.alias and p.alias != p.key], ids=lambda p: p.alias)
def test_an_alias_is_the_same_parameter(parameter: Parameter) -> None:
    assert find(parameter.alias) is parameter


def test_the_known_aliases_are_all_there() -> None:
    aliases = {p.alias: p.key for p in TABLE if p.alias}
    assert aliases["max_retries"] == "healer.attempts_max"
    assert aliases["health_check_interval"] == "probes.period_s"
    assert Parameters().with_values({"retry_attempts": 1}).retry.attempts_max == 1


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(ParameterError) as error:
        find("healer.coldown_s")
    assert str(error.value) == "unknown policy parameter healer.coldown_s; did you mean healer.cooldown_s?"
    with pytest.raises(ParameterError) as error:
        find("xyz")
    assert str(error.value) == "unknown policy parameter xyz; `ollamamax catalogue parameters` lists them"


def test_an_out_of_bounds_value_says_the_bounds_and_the_unit() -> None:
    with pytest.raises(ParameterError) as error:
        preset("default", {"probes.period_s": 0})
    assert str(error.value) == "probes.period_s takes 0.1 to 600 s, not 0.0"


def test_an_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(ParameterError, match=r"^unknown policy preset brave; there are none, reactive, default$"):
        preset("brave")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_made_of_known_parameters_and_overrides_go_on_top(name: str) -> None:
    assert preset(name, {"healer.hold_s": 7.0}).healer.hold_s == 7.0
    values = preset(name).values()
    assert {key: values[key] for key in PRESETS[name]} == PRESETS[name]


def test_every_parameter_is_shown_to_change_something() -> None:
    assert {*WHAT_IT_CHANGES, *ELSEWHERE} == set(IDS)
    assert not {*WHAT_IT_CHANGES} & {*ELSEWHERE}


@pytest.mark.parametrize("key", WHAT_IT_CHANGES)
def test_changing_it_changes_what_the_policy_does(key: str) -> None:
    value, besides, commands = WHAT_IT_CHANGES[key]
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    seen = []
    for change in ("", f" {key}={shown}"):
        cluster = f"cluster nodes 3 slots 2 replicas 2 {besides}{change}"
        seen.append(one_gets_slow(cluster) if commands == ONE_GETS_SLOW else run([cluster, *commands.splitlines()])[1:])
    assert seen[0] != seen[1]


def test_the_limits_of_routes_and_the_deadlines_of_actions_are_parameters() -> None:
    def order(change: str, kind: str) -> float:
        bench = Bench()
        bench.do(f"cluster nodes 3 slots 2 replicas 2 {change}")
        bench.do("node-0 refuses")
        bench.do("advance 3")
        return next(action.deadline_s for action in bench.orders.values() if action.kind == kind)

    assert order("healer.action_timeout_s=90.0", "restart") == pytest.approx(order("", "restart") + 30.0)
    assert order("redundancy.load_timeout_s=400.0", "load") == pytest.approx(order("", "load") + 100.0)
    bench = Bench()
    bench.do("cluster nodes 1 slots 1 replicas 1 router.stall_timeout_s=7.0")
    replica = bench.policy.view.nodes["node-0"].replicas["m"]
    assert (replica.hot_route.stall_timeout_s, replica.cold_route.stall_timeout_s) == (7.0, 7.0)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"redundancy.default_factor": 4, "redundancy.max_factor": 3}, "redundancy.default_factor 4 is above"),
        ({"redundancy.idle_share": 0.5, "redundancy.busy_share": 0.5}, "redundancy.idle_share 0.5 is not below"),
        ({"self_healing.healing_interval": 1000}, "performance_tracking.window_s 600 is below three times"),
        (
            {"self_healing.healing_interval": 100, "config_adaptation.interval": 600},
            "config_adaptation.interval_s 600 is below ten times",
        ),
        (
            {
                "self_healing.service_restart": False,
                "healer.kill_runner": False,
                "self_healing.resource_reallocation": False,
                "self_healing.load_redistribution": False,
                "self_healing.enable_failover": False,
            },
            "healer.enabled needs a strategy",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_to_do(values: dict[str, object], said: str) -> None:
    with pytest.raises(ParameterError, match=f"^{said}"):
        preset("default", values)


def test_how_far_ahead_is_simulated_is_a_parameter() -> None:
    bench = Bench()
    bench.do(f"cluster nodes 3 slots 2 replicas 3 {LOADER} healer.look_ahead=true healer.look_ahead_horizon_s=300.0")
    for command in "node-0 cannot load\nadvance 26".splitlines():
        bench.do(command)
    assert bench.question is not None
    assert bench.question.horizon_s == 300.0


def test_the_master_switch_leaves_a_plain_proxy() -> None:
    assert preset("default", {"enabled": False}) == preset("none")
    assert preset("default", {"enabled": True}) == preset("default")
    with pytest.raises(ParameterError, match="enabled takes true or false"):
        preset("default", {"enabled": "no"})


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        ({"self_healing.healing_interval": 60.0, "self_healing.monitoring_interval": 60.0}, "would look twice"),
        ({"self_healing.healing_interval": 25.0, "predictive_detection.prediction_interval": 30.0}, "old forecasts"),
        (
            {
                "predictive_detection.enable_ml_detection": False,
                "predictive_detection.enable_statistical": False,
                "predictive_detection.enable_pattern_recognition": False,
            },
            "no family is on",
        ),
    ],
)
def test_operators_intervals_that_make_no_sense_together_are_refused(overrides: dict[str, object], what: str) -> None:
    with pytest.raises(ParameterError, match=what):
        preset("default", overrides)
