"""Every parameter of the policy, in one typed table: unit, bounds, default, one sentence.

A part of the policy reads its own dataclass. Configuration, `ollamamax catalogue parameters` and the documentation are
made from `TABLE`. A key is `part.name`; `alias` is the name that operators know from an earlier system's guide, and is
accepted wherever the key is.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Value: TypeAlias = bool | int | float | str


class ParameterError(ValueError):
    """A parameter that does not exist, has a wrong type or lies outside its bounds. The operator's to mend."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One row of the table."""

    key: str
    default: Value
    unit: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    alias: str
    sentence: str

    def check(self, value: object) -> Value:
        """The value in the parameter's type, or `ParameterError`."""
        kind = type(self.default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not kind:
            words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[kind]
            raise ParameterError(f"{self.key} takes {words}, not {value!r}")
        if self.choices and value not in self.choices:
            raise ParameterError(f"{self.key} takes one of {', '.join(self.choices)}, not {value!r}")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if (self.low is not None and not value >= self.low) or (self.high is not None and not value <= self.high):
                raise ParameterError(
                    f"{self.key} takes {self.low:g} to {self.high:g} {self.unit}, not {value!r}".rstrip()
                )
            return value
        assert isinstance(value, (bool, str))
        return value


def _number(default: float, low: float, high: float, unit: str, sentence: str, alias: str = "") -> Any:
    return field(default=default, metadata={"unit": unit, "low": low, "high": high, "alias": alias, "says": sentence})


def _switch(default: bool, sentence: str, alias: str = "") -> Any:
    return field(default=default, metadata={"alias": alias, "says": sentence})


def _text(default: str, sentence: str, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"choices": choices, "says": sentence})


@dataclass(frozen=True, slots=True)
class RouterParameters:
    """Who serves."""

    kind: str = _text(
        "loaded_first",
        "How a node is chosen: the least busy one that has the model loaded, the least busy of all, or in turn.",
        ("loaded_first", "least_busy", "round_robin"),
    )
    first_token_deadline_s: float = _number(
        3.0, 0.1, 3600, "s", "Longest silence before the first token on a node that has the model loaded; 3600 is off."
    )
    prompt_allowance_s_per_1k_tokens: float = _number(
        1.0, 0, 600, "s", "Added to the deadline to the first token for each 1,000 tokens of the prompt."
    )
    cold_first_token_deadline_s: float = _number(
        120.0, 1, 3600, "s", "The same where the model must be loaded first: longer than a load, or loads never end."
    )
    stall_timeout_s: float = _number(2.5, 0.1, 3600, "s", "Longest silence between two tokens; 3600 is off.")
    patience: float = _number(
        3.0,
        0,
        100,
        "",
        "No limit on silence is shorter than this many times the longest recent wait for a first token on the node.",
    )
    match_context: bool = _switch(
        True,
        "Where others have a node load a model with their num_ctx again and again, ask it with that, too: else the model is "
        "loaded anew whenever they and the gateway take turns. Not below `healer.context_min_tokens`.",
    )
    zombie_grace_s: float = _number(
        10.0,
        0,
        3600,
        "s",
        "An attempt whose end nobody has told this long after its request's deadline is struck off the counts; 3600 is off.",
    )
    normalise_names: bool = _switch(
        True, "Take NAME, NAME:latest and library/NAME for one model; off: as it is written."
    )
    connect_timeout_s: float = _number(
        1.0,
        0.05,
        60,
        "s",
        "Longest wait for a connection to a node. Of the live world alone: the twin's gateways have theirs open.",
    )
    prompt_limits: bool = _switch(
        True, "Keep prompts from a node whose runner dies of prompts as long as these, and of no shorter ones."
    )
    slow_start_s: float = _number(
        10.0,
        0,
        3600,
        "s",
        "A node that comes back is chosen last at first, and as any other after this time; 0 is off.",
    )


@dataclass(frozen=True, slots=True)
class AdmissionParameters:
    """How many requests a node gets at once, and how many wait at the gateway."""

    enabled: bool = _switch(
        True, "Send a replica no more requests than it serves at once; the others wait at the gateway."
    )
    deadline_aware: bool = _switch(
        True, "Turn a request away at once that would wait too long for its deadline, or in a long outage."
    )
    wait_share: float = _number(
        0.25,
        0.01,
        1,
        "",
        "A request is turned away at once that would wait for more than this share of the time to its deadline: the "
        "rest is for its answer, and nobody knows how long that will be. 1: it may wait to its deadline.",
    )
    outage_patience_s: float = _number(
        10.0, 0, 3600, "s", "How long requests wait for nodes that are all down; from then on they are turned away."
    )
    learn_slots: bool = _switch(
        False, "Learn how many requests a replica serves at once from the waits in Ollama's own account of them."
    )
    queue_max: int = _number(1000, 0, 1_000_000, "requests", "Longest queue at the gateway, per model; more is shed.")


@dataclass(frozen=True, slots=True)
class RetryParameters:
    """Further attempts of a failed request."""

    attempts_max: int = _number(4, 0, 10, "attempts", "Further attempts of a failed request.", "retry_attempts")
    after_first_token: bool = _switch(True, "Let a broken stream go on on another node.")
    delay_s: float = _number(
        0.2,
        0,
        30,
        "s",
        "Before a retry, where no other node can take it (a retry elsewhere starts at once).",
        "retry_delay",
    )
    budget_ratio: float = _number(0.2, 0, 10, "retries per admitted request", "How fast the retry budget fills.")
    budget_reserve: float = _number(100.0, 0, 1e6, "retries", "Size of the retry budget, full at the start.")


@dataclass(frozen=True, slots=True)
class CircuitBreakerParameters:
    """Passive detection: failures of real requests."""

    enabled: bool = _switch(
        True,
        "Where no generation probes decide: send nothing to a node whose requests fail.",
        "circuit_breaker.enabled",
    )
    failure_threshold: int = _number(
        3,
        1,
        20,
        "failures",
        "Failures in a row, per node and model, that open it.",
        "circuit_breaker.failure_threshold",
    )
    recovery_timeout_s: float = _number(
        10.0, 1, 3600, "s", "How long it stays open where no probe closes it.", "circuit_breaker.recovery_timeout"
    )
    ejected_share_max: float = _number(
        0.67, 0, 1, "share of the fleet", "Never set more than this share of the fleet aside on suspicion alone."
    )


@dataclass(frozen=True, slots=True)
class ProbeParameters:
    """Active detection: the probe ladder."""

    enabled: bool = _switch(True, "Probe the nodes.")
    period_s: float = _number(1.0, 0.1, 600, "s", "Between two liveness probes of a node.", "health_check_interval")
    timeout_s: float = _number(1.0, 0.05, 60, "s", "Longest wait for an answer to a liveness or residency probe.")
    failures_to_suspect: int = _number(
        2, 1, 20, "failures", "Failed liveness probes in a row that make a node suspect."
    )
    phi_threshold: float = _number(
        8.0,
        0,
        1000,
        "",
        "Silence makes a node suspect only from this φ on: where answers come irregularly, later; 0: always.",
    )
    residency: bool = _switch(
        True, "Ask which models are loaded; the answer's latency also probes the scheduler's lock."
    )
    residency_period_s: float = _number(5.0, 0.5, 600, "s", "Between two residency probes of a node.")
    generation: bool = _switch(True, "Generate one token on nodes that have not finished a request of late.")
    generation_period_s: float = _number(
        2.0, 0.5, 600, "s", "A node that finished nothing for this long is asked for one token."
    )
    generation_suspect_s: float = _number(
        1.0, 0.05, 600, "s", "Without that token by then the node is suspect, and is asked once more."
    )
    generation_timeout_s: float = _number(
        2.0, 0.1, 600, "s", "Longest wait for a suspect node's token where the model is loaded; then it has failed."
    )
    load_path_model: str = _text(
        "", "A small model that is loaded and let go to probe the scheduler; empty: no such probe."
    )
    load_path_period_s: float = _number(15.0, 1, 3600, "s", "Between two load-path probes of a node.")
    load_path_timeout_s: float = _number(10.0, 0.5, 600, "s", "Longest wait for that load.")


@dataclass(frozen=True, slots=True)
class SlownessParameters:
    """Grey failure: a node that works, but slower than its peers."""

    enabled: bool = _switch(True, "Send less to nodes that are slower than their peers.")
    ratio: float = _number(
        2.0,
        1.1,
        100,
        "",
        "How many times slower than its own normal (far away: than the fleet's median) a node is set back.",
    )
    failing_ratio: float = _number(
        3.0,
        1.1,
        1000,
        "",
        "How many times slower than its own normal, beside its peers, is a failure that is repaired.",
    )
    latency_floor_s: float = _number(
        0.25, 0.001, 60, "s", "An answer to a liveness probe faster than this is never slow."
    )
    patience_s: float = _number(10.0, 0, 3600, "s", "How long a node must stay slow before it counts as failing.")
    samples_min: int = _number(5, 1, 1000, "samples", "Samples before a node is judged.")


@dataclass(frozen=True, slots=True)
class HealerParameters:
    """Repair, verified."""

    enabled: bool = _switch(True, "Repair nodes.", "self_healing.enabled")
    mode: str = _text(
        "act",
        "act: what is decided is done; advise: it is written down with the status `advised`, and nothing is done.",
        ("act", "advise"),
    )
    restart: bool = _switch(True, "Restarting a node's service is allowed.", "self_healing.service_restart")
    kill_runner: bool = _switch(True, "Killing the runner processes of a node is allowed.")
    reallocation: bool = _switch(
        True, "Unloading, reloading and moving models is allowed.", "self_healing.resource_reallocation"
    )
    fetch: bool = _switch(
        True,
        "Having a node fetch a model anew that its server refuses at once, after a restart did not help, is allowed. What "
        "is there is deleted first where the registry has the model; so the node then has the registry's present version.",
    )
    redistribution: bool = _switch(
        True,
        "Asking less of a node for a while, or nothing, is allowed.",
        "self_healing.load_redistribution",
    )
    failover: bool = _switch(
        True,
        "Loading elsewhere what a failed or endangered node has is allowed.",
        "self_healing.enable_failover",
    )
    learning: bool = _switch(
        True, "Learn from verified outcomes how often each remedy helps.", "self_healing.enable_learning"
    )
    learning_interval_s: float = _number(
        0.0,
        0,
        3600,
        "s",
        "Outcomes are learnt from so often, those of the meantime together; 0: each at once. It was documented as 5 m.",
        "self_healing.learning_interval",
    )
    predictive: bool = _switch(True, "Take in what the predictor foretells.", "self_healing.enable_predictive")
    proactive: bool = _switch(
        True,
        "Act on it before the failure comes; off: only what can cost no running work is done beforehand.",
        "self_healing.enable_proactive",
    )
    probability_min: float = _number(
        0.7,
        0,
        1,
        "",
        "Nothing is done about a failure that is foretold with less than this.",
        "self_healing.healing_threshold",
    )
    false_hard_actions_per_node_day: float = _number(
        0.05,
        0,
        100,
        "actions",
        "Disruptive actions before a failure that may be in vain, as their forecasts' probabilities add up.",
    )
    false_hard_actions_days_saved: float = _number(
        7.0, 0, 365, "days", "How many days' worth of these may be saved up; a run starts with so many."
    )
    look_ahead: bool = _switch(
        False, "Before a node that still serves is disturbed, have the twin simulate what would follow."
    )
    look_ahead_limit_s: float = _number(1.0, 0.05, 60, "s", "Longest wait for that; then the rates decide alone.")
    look_ahead_horizon_s: float = _number(600.0, 10, 7200, "s", "How far ahead is simulated.")
    period_s: float = _number(
        0.0,
        0,
        1800,
        "s",
        "Least time between two looks at what is open; 0: each time that the controller looks. It was documented as "
        "1 m, for a healer that never acted; recovery within seconds needs looks within seconds.",
        "self_healing.healing_interval",
    )
    concurrent_max: int = _number(2, 1, 1000, "actions", "Disruptive actions that may run at once.")
    cooldown_s: float = _number(15.0, 0, 3600, "s", "Between two disruptive actions on one node; doubles each time.")
    attempts_max: int = _number(
        5, 0, 20, "actions", "Disruptive actions in one incident; then it is given up.", "max_retries"
    )
    action_timeout_s: float = _number(
        60.0, 1, 1800, "s", "Longest wait for the result of an action.", "recovery_timeout"
    )
    unreachable_grace_s: float = _number(
        20.0, 0, 3600, "s", "A node that nothing reaches is left alone this long: a restart does not mend a network."
    )
    drain_timeout_s: float = _number(
        10.0, 0, 3600, "s", "A node that still serves is drained before its restart, at most this long."
    )
    verify_timeout_s: float = _number(60.0, 1, 1800, "s", "Longest wait for the verifying generation, a load included.")
    hold_s: float = _number(
        5.0, 0, 600, "s", "How long a repaired node must go on working before its incident is closed."
    )
    crash_loop_failures: int = _number(
        3, 2, 100, "failures", "Runner failures on one node within the window that make it a crash loop: then restart."
    )
    crash_loop_window_s: float = _number(
        30.0,
        1,
        3600,
        "s",
        "The window of the crash loop; so long other nodes are chosen first after a death in an answer.",
    )
    context_min_tokens: int = _number(
        2048,
        0,
        1 << 20,
        "tokens",
        "Shortest context with which a model is loaded again where GPU memory runs short; 0: contexts are left alone.",
    )
    replicas_min: int = _number(
        1,
        0,
        100,
        "replicas",
        "Serving replicas of a model that the drain before a repair must leave; a node taken for failed is repaired anyway.",
    )


@dataclass(frozen=True, slots=True)
class RedundancyParameters:
    """How many replicas of which model, where."""

    enabled: bool = _switch(True, "Load a model on another node when a replica is lost.", "redundancy.enabled")
    update_interval_s: float = _number(
        1.0, 0.5, 3600, "s", "Between two looks at the replicas.", "redundancy.update_interval"
    )
    load_timeout_s: float = _number(300.0, 1, 3600, "s", "Longest wait for a load.")
    default_factor: int = _number(
        1,
        1,
        20,
        "replicas",
        "Fewest replicas of each model that the cluster is to serve; a cluster may ask for more of each. It was "
        "documented as 2; a second copy costs GPU memory that a cluster may not have, so here it is asked for.",
        "redundancy.default_factor",
    )
    max_factor: int = _number(
        5, 1, 20, "replicas", "Most replicas that demand and risk may ask for.", "redundancy.max_factor"
    )
    scaling: bool = _switch(
        True, "More replicas where demand or risk asks for them, fewer when it is over.", "self_healing.enable_scaling"
    )
    busy_share: float = _number(
        0.85, 0.1, 1, "share of the slots", "A model whose replicas are busier than this for long gets one more."
    )
    idle_share: float = _number(
        0.3,
        0,
        0.9,
        "share of the slots",
        "A surplus replica of a model that is less busy than this for long is let go.",
    )
    scale_up_after_s: float = _number(20.0, 1, 3600, "s", "How long busy is long.")
    scale_down_after_s: float = _number(300.0, 1, 86400, "s", "How long idle is long.")
    spread_racks: bool = _switch(True, "Put a model's replicas into different racks where there is room.")


@dataclass(frozen=True, slots=True)
class PerformanceTrackingParameters:
    """What is normal, and how fast the error budget burns."""

    enabled: bool = _switch(
        True,
        "While attempts at nodes fail far too often, disturb no node for a mere forecast.",
        "performance_tracking.enabled",
    )
    window_s: float = _number(
        600.0,
        10,
        86400,
        "s",
        "The long of its two windows; the short one is a twelfth.",
        "performance_tracking.window_size",
    )
    period_s: float = _number(
        5.0,
        0.5,
        300,
        "s",
        "Between two looks at what nodes serve and how fast the error budget burns.",
        "self_healing.monitoring_interval",
    )
    objective: float = _number(0.99, 0.5, 0.99999, "", "Share of the attempts at nodes that are to succeed.")


@dataclass(frozen=True, slots=True)
class ConfigAdaptationParameters:
    """Learning of settings: proposed for what was seen, tried in the twin, watched."""

    enabled: bool = _switch(True, "Propose better settings.", "config_adaptation.enabled")
    live: bool = _switch(
        False,
        "Have a running controller do so for the load of late: what is better with confidence in the twin is taken, "
        "watched for an interval, and taken back where more goes wrong. It needs a calibration of the nodes.",
    )
    trial_limit_s: float = _number(300.0, 1, 3600, "s", "Longest time for the trials of an interval's proposals.")
    interval_s: float = _number(
        900.0, 60, 86400, "s", "Between two proposals; also how long a change is watched.", "config_adaptation.interval"
    )


@dataclass(frozen=True, slots=True)
class PredictorParameters:
    """Will it fail soon?"""

    enabled: bool = _switch(True, "Foresee failures from telemetry and requests.", "predictive_detection.enabled")
    statistical: bool = _switch(
        True, "Use what is unusual for a node (residuals, change-points).", "predictive_detection.enable_statistical"
    )
    pattern: bool = _switch(
        True, "Use the signatures of known failures.", "predictive_detection.enable_pattern_recognition"
    )
    ml: bool = _switch(True, "Use the trained model.", "predictive_detection.enable_ml_detection")
    by_count: bool = _switch(
        True, "Foretell the failure of a runner that failed after about as many requests each time, from the third on."
    )
    confidence_threshold: float = _number(
        0.6,
        0,
        1,
        "probability",
        "A forecast from this probability on is a warning, and is written into the record.",
        "predictive_detection.confidence_threshold",
    )
    prediction_interval_s: float = _number(
        20.0,
        1,
        300,
        "s",
        "Between two predictions for a node; its telemetry is asked for as often.",
        "predictive_detection.prediction_interval",
    )
    window_s: float = _number(
        300.0,
        60,
        3600,
        "s",
        "The window of trends; what is normal has twelve of them. A trained model is for one window.",
        "predictive_detection.window_size",
    )
    threshold: float = _number(
        0.7,
        0,
        1,
        "score",
        "Sensitivity: a smaller statistical score counts as nothing (0.7 is about ten spreads from normal).",
        "predictive_detection.threshold",
    )


@dataclass(frozen=True, slots=True)
class Parameters:
    """All of them. `DEFAULT` is the preset `default`."""

    router: RouterParameters = field(default_factory=RouterParameters)
    admission: AdmissionParameters = field(default_factory=AdmissionParameters)
    retry: RetryParameters = field(default_factory=RetryParameters)
    circuit_breaker: CircuitBreakerParameters = field(default_factory=CircuitBreakerParameters)
    probes: ProbeParameters = field(default_factory=ProbeParameters)
    slowness: SlownessParameters = field(default_factory=SlownessParameters)
    healer: HealerParameters = field(default_factory=HealerParameters)
    redundancy: RedundancyParameters = field(default_factory=RedundancyParameters)
    predictor: PredictorParameters = field(default_factory=PredictorParameters)
    performance_tracking: PerformanceTrackingParameters = field(default_factory=PerformanceTrackingParameters)
    config_adaptation: ConfigAdaptationParameters = field(default_factory=ConfigAdaptationParameters)

    def with_values(self, values: Mapping[str, object]) -> Parameters:
        """These parameters with some changed, by key or alias. Raises `ParameterError`."""
        changes: dict[str, dict[str, Value]] = {}
        for name, value in values.items():
            parameter = find(name)
            part, _, leaf = parameter.key.partition(".")
            changes.setdefault(part, {})[leaf] = parameter.check(value)
        parts = {part: dataclasses.replace(getattr(self, part), **leaves) for part, leaves in changes.items()}
        changed = dataclasses.replace(self, **parts)
        for holds, rule in _rules(changed):
            if not holds:
                raise ParameterError(rule)
        return changed

    def values(self) -> dict[str, Value]:
        """Every key with its value."""
        return {p.key: getattr(getattr(self, p.key.partition(".")[0]), p.key.partition(".")[2]) for p in TABLE}


def _rules(it: Parameters) -> list[tuple[bool, str]]:
    """What must hold between parameters, each with the sentence for where it does not."""
    healer, redundancy = it.healer, it.redundancy
    ways = healer.restart or healer.kill_runner or healer.reallocation or healer.redistribution or healer.failover
    return [
        (
            redundancy.default_factor <= redundancy.max_factor,
            f"redundancy.default_factor {redundancy.default_factor} is above redundancy.max_factor {redundancy.max_factor}; "
            "raise the second or lower the first",
        ),
        (
            redundancy.idle_share < redundancy.busy_share,
            f"redundancy.idle_share {redundancy.idle_share:g} is not below redundancy.busy_share "
            f"{redundancy.busy_share:g}: replicas would be loaded and unloaded in turn",
        ),
        (
            ways or not healer.enabled,
            "healer.enabled needs a strategy: allow one of healer.restart, kill_runner, reallocation, redistribution, "
            "failover, or set healer.enabled to false",
        ),
        (
            it.performance_tracking.window_s >= 3.0 * healer.period_s,
            f"performance_tracking.window_s {it.performance_tracking.window_s:g} is below three times healer.period_s "
            f"{healer.period_s:g}: nothing would be known of an action before the next look",
        ),
        (
            not healer.period_s or it.performance_tracking.period_s < healer.period_s,
            f"performance_tracking.period_s {it.performance_tracking.period_s:g} is not below healer.period_s "
            f"{healer.period_s:g}: the healer would look twice at the same",
        ),
        (
            not healer.period_s or not it.predictor.enabled or it.predictor.prediction_interval_s <= healer.period_s,
            f"predictor.prediction_interval_s {it.predictor.prediction_interval_s:g} is above healer.period_s "
            f"{healer.period_s:g}: the healer would act on old forecasts",
        ),
        (
            not it.predictor.enabled or it.predictor.statistical or it.predictor.pattern or it.predictor.ml,
            "predictor: no family is on; switch statistical, pattern or ml on, or say predictor.enabled=false",
        ),
        (
            it.config_adaptation.enabled or not it.config_adaptation.live,
            "config_adaptation.live proposes nothing while config_adaptation.enabled is false; set both or neither",
        ),
        (
            not it.config_adaptation.live or it.config_adaptation.trial_limit_s < it.config_adaptation.interval_s,
            f"config_adaptation.trial_limit_s {it.config_adaptation.trial_limit_s:g} is not below "
            f"config_adaptation.interval_s {it.config_adaptation.interval_s:g}: trials would still run at the next one",
        ),
        (
            it.config_adaptation.interval_s >= 10.0 * healer.period_s,
            f"config_adaptation.interval_s {it.config_adaptation.interval_s:g} is below ten times healer.period_s "
            f"{healer.period_s:g}: a setting must be seen at work before it is judged",
        ),
    ]


def _table() -> tuple[Parameter, ...]:
    rows = []
    for part in dataclasses.fields(Parameters):
        for leaf in dataclasses.fields(getattr(Parameters(), part.name)):
            meta = leaf.metadata
            default: Any = leaf.default
            rows.append(
                Parameter(
                    key=f"{part.name}.{leaf.name}",
                    default=default,
                    unit=meta.get("unit", ""),
                    low=meta.get("low"),
                    high=meta.get("high"),
                    choices=meta.get("choices", ()),
                    alias=meta.get("alias", ""),
                    sentence=meta["says"],
                )
            )
    return tuple(rows)


TABLE: tuple[Parameter, ...] = _table()
_BY_NAME: dict[str, Parameter] = {p.key: p for p in TABLE} | {p.alias: p for p in TABLE if p.alias}


def find(name: str) -> Parameter:
    """The parameter of that key or alias. Raises `ParameterError` with the nearest name."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    near = difflib.get_close_matches(name, _BY_NAME, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else "; `ollamamax catalogue parameters` lists them"
    raise ParameterError(f"unknown policy parameter {name}{hint}")


MASTER = "enabled"
"""The operators' master switch: off is the preset `none`, a plain proxy, whatever preset is named."""

TABLE_OF_MASTER = Parameter(MASTER, True, "", None, None, (), "", "Fault tolerance; off: a plain proxy.")

PRESETS: dict[str, dict[str, Value]] = {
    # A plain proxy: in turn, no health, no second try. What doing nothing gives.
    "none": {
        "router.kind": "round_robin",
        "router.first_token_deadline_s": 3600.0,
        "router.cold_first_token_deadline_s": 3600.0,
        "router.stall_timeout_s": 3600.0,
        "router.slow_start_s": 0.0,
        "admission.enabled": False,
        "retry.attempts_max": 0,
        "circuit_breaker.enabled": False,
        "probes.enabled": False,
        "slowness.enabled": False,
        "healer.enabled": False,
        "redundancy.enabled": False,
        "predictor.enabled": False,
        "performance_tracking.enabled": False,
    },
    # A well-kept generic proxy: least connections, a passive breaker, a liveness check, one retry before the first byte.
    "reactive": {
        "router.kind": "least_busy",
        "router.first_token_deadline_s": 3600.0,
        "router.cold_first_token_deadline_s": 3600.0,
        "router.stall_timeout_s": 3600.0,
        "router.slow_start_s": 0.0,
        "admission.enabled": False,
        "retry.attempts_max": 1,
        "retry.after_first_token": False,
        "probes.period_s": 5.0,
        "probes.residency": False,
        "probes.generation": False,
        "slowness.enabled": False,
        "healer.enabled": False,
        "redundancy.enabled": False,
        "predictor.enabled": False,
        "performance_tracking.enabled": False,
    },
    "default": {},
}
"""Each preset: what differs from the defaults. `default` is everything on."""


def preset(name: str, overrides: Mapping[str, object] | None = None) -> Parameters:
    """The parameters of a preset with overrides. Raises `ParameterError`."""
    if name not in PRESETS:
        raise ParameterError(f"unknown policy preset {name}; there are {', '.join(PRESETS)}")
    wanted = dict(overrides or {})
    if not TABLE_OF_MASTER.check(wanted.pop(MASTER, True)):
        name = "none"
    return Parameters().with_values({**PRESETS[name], **wanted})
