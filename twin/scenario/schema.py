"""The scenario file as typed data. `ollamamax schema` publishes it as JSON Schema."""

from __future__ import annotations

import re
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from twin.policy.parameters import PRESETS, ParameterError, Parameters, find, preset
from twin.policy.vocabulary import ClusterSpec, ModelSpec, NodeSpec, OrderKind
from twin.record.names import EXPECTABLE
from twin.scenario.faults import FAULT_KINDS
from twin.scenario.faults.base import Fault
from twin.scenario.hardware import MODEL_SIZES_GIB, PROFILES, Hardware
from twin.scenario.workload import Length, Workload

if TYPE_CHECKING:
    AnyFault: TypeAlias = Fault
else:  # the union of what the catalogue holds, told apart by `kind`
    AnyFault = Annotated[reduce(or_, FAULT_KINDS.values()), Field(discriminator="kind")]
MIB_PER_GIB = 1024.0


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Model(_Closed):
    """A model that the cluster serves. Size and KV cache are known for common names, and must be given for others."""

    replicas: Annotated[int, Field(ge=0, description="Nodes that have it loaded at the start.")] = 1
    size_gib: Annotated[float | None, Field(gt=0, description="Weights.")] = None
    kv_mib_per_1k_tokens: Annotated[float | None, Field(ge=0, description="KV cache per 1,000 tokens of context.")] = (
        None
    )


class NodeGroup(_Closed):
    """Nodes of one kind of machine."""

    count: Annotated[int, Field(ge=1)]
    hardware: str | Hardware


class Network(_Closed):
    """The path between gateway and nodes."""

    latency_ms: Annotated[float, Field(ge=0, description="One way, gateway to node.")] = 0.3


class Cluster(_Closed):
    """The machines and what they serve."""

    nodes: Annotated[int | None, Field(ge=1, le=100_000, description="How many, all of one `hardware`.")] = None
    groups: Annotated[list[NodeGroup] | None, Field(min_length=1, description="Mixed fleets.")] = None
    hardware: str | Hardware = "rtx-4090"
    models: Annotated[dict[str, Model], Field(min_length=1)]
    slots_per_model: Annotated[int, Field(ge=1, le=1024, description="OLLAMA_NUM_PARALLEL.")] = 1
    context_tokens: Annotated[
        int, Field(ge=1, description="num_ctx; the KV cache of a runner is this times the slots.")
    ] = 4096
    max_queue: Annotated[int, Field(ge=0, description="OLLAMA_MAX_QUEUE: pending requests that need a load.")] = 512
    keep_alive_s: Annotated[
        float | None,
        Field(gt=0, description="OLLAMA_KEEP_ALIVE: idle time after which a model is let go; null: never."),
    ] = None
    network: Network = Network()
    restart_s: Annotated[float, Field(gt=0, description="From a restart's order until the server answers.")] = 3.0

    @model_validator(mode="after")
    def _one_way_to_say_how_many(self) -> Cluster:
        if (self.nodes is None) == (self.groups is None):
            raise ValueError("give either nodes or groups")
        return self

    def hardware_of_nodes(self) -> list[Hardware]:
        """One entry for each node, in order."""
        groups = self.groups or [NodeGroup(count=self.nodes or 0, hardware=self.hardware)]
        found = []
        for group in groups:
            if isinstance(group.hardware, str) and group.hardware not in PROFILES:
                raise ValueError(
                    f"unknown hardware {group.hardware!r}; there are {', '.join(PROFILES)}, or give a table"
                )
            found += [PROFILES[group.hardware] if isinstance(group.hardware, str) else group.hardware] * group.count
        return found

    def node_names(self) -> list[str]:
        """node-0, node-1 ..."""
        return [f"node-{index}" for index in range(len(self.hardware_of_nodes()))]

    def memory_gib(self, name: str) -> float:
        """Memory of a loaded model: its weights, and the KV cache for all its slots."""
        model = self.models[name]
        size, kv = MODEL_SIZES_GIB.get(name, (None, None))
        size = model.size_gib if model.size_gib is not None else size
        kv = model.kv_mib_per_1k_tokens if model.kv_mib_per_1k_tokens is not None else kv
        if size is None:
            raise ValueError(f"the size of model {name} is not known; give size_gib and kv_mib_per_1k_tokens")
        return size + (kv or 0.0) * self.context_tokens / 1000.0 * self.slots_per_model / MIB_PER_GIB

    def size_gib(self, name: str) -> float:
        """The weights alone."""
        model = self.models[name]
        return model.size_gib if model.size_gib is not None else MODEL_SIZES_GIB[name][0]

    def spec(self) -> ClusterSpec:
        """The cluster as a policy knows it: replicas of each model spread over the nodes with most room left."""
        names = self.node_names()
        free = {name: hardware.vram_gib for name, hardware in zip(names, self.hardware_of_nodes(), strict=True)}
        nodes = tuple(NodeSpec(name, vram) for name, vram in free.items())
        placement: dict[str, list[str]] = {name: [] for name in names}
        order = {name: index for index, name in enumerate(names)}
        for model in self.models:
            need = self.memory_gib(model)
            for _ in range(self.models[model].replicas):
                fitting = [name for name in names if free[name] >= need and model not in placement[name]]
                if not fitting:
                    where = f"{self.models[model].replicas} replicas of {model} ({need:.1f} GiB each)"
                    raise ValueError(f"{where} do not fit: at most {max(free.values()):.1f} GiB are free on a node")
                best = min(fitting, key=lambda name: (len(placement[name]), order[name]))
                placement[best].append(model)
                free[best] -= need
        models = tuple(
            ModelSpec(name, self.memory_gib(name), model.replicas, self.slots_per_model)
            for name, model in self.models.items()
        )
        return ClusterSpec(nodes, models, {name: tuple(loaded) for name, loaded in placement.items()})

    @model_validator(mode="after")
    def _it_is_possible(self) -> Cluster:
        largest = max(hardware.vram_gib for hardware in self.hardware_of_nodes())
        for name in self.models:
            if self.memory_gib(name) > largest:
                need = self.memory_gib(name)
                raise ValueError(
                    f"model {name} needs {need:.1f} GiB and fits no node (the largest has {largest:g} GiB)"
                )
        self.spec()
        return self


class PolicyChoice(_Closed):
    """Which policy decides: a preset, and what differs from it (`ollamamax catalogue parameters`)."""

    preset: str = "default"
    overrides: dict[str, bool | int | float | str] = {}

    @field_validator("preset")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in PRESETS:
            raise ValueError(f"unknown preset {value!r}; there are {', '.join(PRESETS)}")
        return value

    @field_validator("overrides")
    @classmethod
    def _parameters_exist(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, given in value.items():
            try:
                find(name).check(given)
            except ParameterError as error:
                raise ValueError(str(error)) from error
        return value

    def parameters(self) -> Parameters:
        """The parameters that follow."""
        return preset(self.preset, self.overrides)


class SuccessRatioFloor(_Closed):
    """The share of requests ended in a window that must have succeeded."""

    min: Annotated[float, Field(gt=0, le=1)] = 0.999
    window_s: Annotated[float, Field(gt=0)] = 30.0


class SteadyState(_Closed):
    """What the system is like when it is well. Recovery is its return, held for `hold_s`."""

    success_ratio: SuccessRatioFloor = SuccessRatioFloor()
    hold_s: Annotated[float, Field(ge=0, description="How long it must hold to count as regained.")] = 10.0


class Order(_Closed):
    """What an operator orders during the run: set a node aside, restart it, give it back."""

    at_s: Annotated[float, Field(ge=0, description="When, in seconds from the start of the run (warm-up included).")]
    order: OrderKind
    node: str


class AbortSuccessRatio(_Closed):
    """Abort below this ratio."""

    below: Annotated[float, Field(gt=0, le=1)]
    window_s: Annotated[float, Field(gt=0)] = 15.0


class AbortWhen(_Closed):
    """When a run is broken off and everything put back. What was under way is lost; what is not known then is unknown."""

    success_ratio: AbortSuccessRatio


class Limit(_Closed):
    """What a figure must keep to."""

    max: float | None = None
    min: float | None = None

    @model_validator(mode="after")
    def _some_limit(self) -> Limit:
        if self.max is None and self.min is None:
            raise ValueError("give max or min")
        if self.max is not None and self.min is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}: nothing can keep to both")
        return self


class LiveChoice(_Closed):
    """What the live world must have otherwise: a machine for tests is not a cluster of GPUs."""

    slots_per_model: Annotated[int | None, Field(ge=1)] = None
    rate_rps: Annotated[float | None, Field(gt=0)] = None
    prompt_tokens: Length | None = None
    output_tokens: Length | None = None


class RecordChoice(_Closed):
    """How much is recorded."""

    journal: Annotated[bool, Field(description="Every call of the policy, so that the run can be replayed.")] = True
    telemetry_period_s: Annotated[float, Field(ge=0.05, description="Sampling period of the nodes.")] = 5.0


class Scenario(_Closed):
    """One scenario: what cluster there is, what load arrives, what breaks and when, and what must hold."""

    schema_version: Annotated[Literal[1], Field(alias="schema", description="Version of this schema.")]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="The file's name without its ending.")]
    claim: Annotated[str, Field(min_length=1, description="The sentence that the run judges.")]
    why: Annotated[str, Field(description="Why anyone should care.")] = ""
    cluster: Cluster
    workload: Workload
    policy: PolicyChoice = PolicyChoice()
    faults: list[AnyFault] = []
    orders: Annotated[list[Order], Field(description="What an operator orders meanwhile.")] = []
    steady_state: SteadyState = SteadyState()
    abort_when: AbortWhen | None = None
    expect: Annotated[dict[str, Limit], Field(description="Figure name to limit.")] = {}
    replications: Annotated[int, Field(ge=1, le=100_000)] = 1
    seed: Annotated[int, Field(ge=0)] = 1
    live: LiveChoice = LiveChoice()
    record: RecordChoice = RecordChoice()

    @field_validator("expect")
    @classmethod
    def _figures_exist(cls, value: dict[str, Limit]) -> dict[str, Limit]:
        for name in value:
            if name not in EXPECTABLE:
                raise ValueError(f"unknown figure {name!r}; `ollamamax catalogue metrics` lists them")
        return value

    @model_validator(mode="after")
    def _targets_exist(self) -> Scenario:
        names = self.cluster.node_names()
        for place, fault in enumerate(self.faults):
            target = fault.target
            if isinstance(target, dict):
                raise ValueError(f"faults[{place}]: racks are not modelled yet; name a node, random, random(N) or all")
            drawn = re.fullmatch(r"random\((\d+)\)", target)
            if drawn and not 1 <= int(drawn[1]) <= len(names):
                raise ValueError(f"faults[{place}]: target {target} of a cluster of {len(names)} nodes")
            if not drawn and target not in (*names, "random", "all"):
                raise ValueError(
                    f"faults[{place}]: target {target!r} is no node ({names[0]} to {names[-1]}), random, random(N) or all"
                )
            if fault.at_s >= self.end_of_load_s:
                raise ValueError(
                    f"faults[{place}]: at_s {fault.at_s:g} is after the load's end ({self.end_of_load_s:g} s)"
                )
        for place, order in enumerate(self.orders):
            if order.node not in names:
                raise ValueError(f"orders[{place}]: {order.node!r} is no node ({names[0]} to {names[-1]})")
            if order.at_s >= self.end_of_load_s:
                raise ValueError(
                    f"orders[{place}]: at_s {order.at_s:g} is after the load's end ({self.end_of_load_s:g} s)"
                )
        for model in self.workload.models or {}:
            if model not in self.cluster.models:
                raise ValueError(f"workload.models names {model}, which the cluster does not serve")
        return self

    @model_validator(mode="after")
    def _live_is_possible(self) -> Scenario:
        try:
            self.for_live()
        except ValidationError as error:
            raise ValueError(f"live: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error
        return self

    @property
    def end_of_load_s(self) -> float:
        """When the last request may arrive."""
        return self.workload.warmup_s + self.workload.duration_s

    def for_live(self) -> Scenario:
        """The scenario as the live world runs it: with what `live` says put in its place."""
        cluster, workload = self.cluster, self.workload
        if self.live.slots_per_model is not None:
            cluster = Cluster.model_validate(cluster.model_dump() | {"slots_per_model": self.live.slots_per_model})
        changes: dict[str, Any] = {}
        if self.live.rate_rps is not None:
            changes["arrivals"] = workload.arrivals.model_copy(update={"rate_rps": self.live.rate_rps})
        for key in ("prompt_tokens", "output_tokens"):
            if getattr(self.live, key) is not None:
                changes[key] = getattr(self.live, key)
        return self.model_copy(update={"cluster": cluster, "workload": workload.model_copy(update=changes)})
