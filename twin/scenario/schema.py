"""The scenario file as typed data. `ollamamax schema` publishes it as JSON Schema."""

from __future__ import annotations

import difflib
import functools
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from twin.policy.parameters import PRESETS, ParameterError, Parameters, find, preset
from twin.policy.vocabulary import ClusterSpec, HandKind, ModelSpec, NodeSpec, OrderKind
from twin.record.names import EXPECTABLE
from twin.scenario.calibrated import outside
from twin.scenario.faults import FAULT_KINDS
from twin.scenario.faults.base import Fault
from twin.scenario.generator_kinds import FaultGenerator
from twin.scenario.hardware import Hardware
from twin.scenario.memory import CONTEXT_TIERS, MODELS_PER_GPU, Placement, context_tier, fit
from twin.scenario.models import MODELS
from twin.scenario.profiles import PROFILES
from twin.scenario.targets import check_target, check_words
from twin.scenario.topology import GatewayPlace, Gateways, Network, Topology
from twin.scenario.workload import Arrivals, Length, Workload

if TYPE_CHECKING:
    AnyFault: TypeAlias = Fault
else:  # the union of what the catalogue holds, told apart by `kind`
    AnyFault = Annotated[reduce(or_, FAULT_KINDS.values()), Field(discriminator="kind")]
MIB_PER_GIB = 1024.0


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _near(profile: str) -> str:
    near = difflib.get_close_matches(profile, PROFILES, n=1, cutoff=0.6)
    return f", did you mean {near[0]}?" if near else ""


class Model(_Closed):
    """A model that the cluster serves. Size and KV cache are known for common names, and must be given for others."""

    replicas: Annotated[int, Field(ge=0, description="Nodes that have it loaded at the start.")] = 1
    size_gib: Annotated[float | None, Field(gt=0, description="Weights.")] = None
    kv_mib_per_1k_tokens: Annotated[float | None, Field(ge=0, description="KV cache per 1,000 tokens of context.")] = (
        None
    )
    embedding: Annotated[bool, Field(description="An embedding model: Ollama loads it with one slot.")] = False


class NodeGroup(_Closed):
    """Nodes that are alike."""

    count: Annotated[int, Field(ge=1)]
    hardware: Annotated[str | Hardware | None, Field(description="Their machine; null: the cluster's.")] = None
    hands: Annotated[list[HandKind] | None, Field(description="What can be done to these; null: as to all.")] = None


class Agents(_Closed):
    """What runs beside each Ollama and tells what its machine can be seen to do."""

    missing_share: Annotated[float, Field(ge=0, le=1, description="Share of the samples that never come.")] = 0.005
    late_share: Annotated[float, Field(ge=0, le=1, description="Share of the samples that come late.")] = 0.005
    late_s: Annotated[float, Field(gt=0, description="How late these come.")] = 5.0


class Hosts(_Closed):
    """Machines with several nodes each, in the order of their names."""

    nodes_each: Annotated[int, Field(ge=2)]
    room: Annotated[
        float,
        Field(
            gt=0,
            description="How many runners' full speed several have together, in even shares. One alone always has all of "
            "its own; below 1, several together get less done than one: switching costs.",
        ),
    ]


class Cluster(_Closed):
    """The machines and what they serve."""

    nodes: Annotated[int | None, Field(ge=1, le=100_000, description="How many, all of one `hardware`.")] = None
    groups: Annotated[list[NodeGroup] | None, Field(min_length=1, description="Mixed fleets.")] = None
    hardware: str | Hardware = "rtx-4090"
    models: Annotated[dict[str, Model], Field(min_length=1)]
    slots_per_model: Annotated[int, Field(ge=1, le=1024, description="OLLAMA_NUM_PARALLEL.")] = 1
    context_tokens: Annotated[
        int | None,
        Field(
            ge=1,
            description="num_ctx; the KV cache of a runner is this times the slots. Absent: as Ollama chooses by the GPU "
            "memory of the smallest machine (below 24 GiB 4096, below 48 GiB 32768, else 262144), or less where not all "
            "models have room beside each other with that.",
        ),
    ] = None
    max_queue: Annotated[int, Field(ge=0, description="OLLAMA_MAX_QUEUE: pending requests that need a load.")] = 512
    keep_alive_s: Annotated[
        float | None,
        Field(gt=0, description="OLLAMA_KEEP_ALIVE: idle time after which a model is let go; null: never."),
    ] = None
    max_loaded_models: Annotated[
        int | None, Field(ge=1, description="OLLAMA_MAX_LOADED_MODELS; absent: 3 for each GPU.")
    ] = None
    network: Network = Network()
    agents: Annotated[
        bool | Agents, Field(description="Whether an agent beside each node sends telemetry; a table: how well.")
    ] = True
    hands: Annotated[
        list[HandKind],
        Field(description="What somebody can do to a node; Ollama's API alone can load, unload, pull and copy."),
    ] = list(get_args(HandKind))
    gateways: Annotated[
        Gateways,
        Field(description="How many (all at the core), or where each stands. Each has a policy of its own."),
    ] = 1
    coordination: Annotated[
        Literal["lease", "none"],
        Field(description="lease: of several gateways only one at a time restarts or unloads; none: each does."),
    ] = "lease"
    lease_s: Annotated[
        float, Field(gt=0, description="How long a gateway that is cut off from the core keeps the lease.")
    ] = 15.0
    iteration_level: Annotated[
        bool,
        Field(description="Twin: every iteration of a batch is an event. The slow yardstick of the analytic clock."),
    ] = False
    hosts: Annotated[
        Hosts | None, Field(description="Twin: nodes that share the processor of one machine; null: each has its own.")
    ] = None
    restart_s: Annotated[
        float, Field(gt=0, description="From a restart's order until the server answers; its mean.")
    ] = 3.0
    restart_cv: Annotated[
        float, Field(ge=0, le=3, description="How much restarts vary (lognormal; an assumption). 0: they do not.")
    ] = 0.15
    load_cv: Annotated[
        float,
        Field(ge=0, le=3, description="How much loads of a model vary (lognormal; an assumption). 0: they do not."),
    ] = 0.1

    @model_validator(mode="after")
    def _one_way_to_say_how_many(self) -> Cluster:
        if (self.nodes is None) == (self.groups is None):
            raise ValueError("give either nodes or groups")
        return self

    def hardware_of_nodes(self) -> list[Hardware]:
        """One entry for each node, in order."""
        found = []
        for group in self._groups():
            hardware = self.hardware if group.hardware is None else group.hardware
            if isinstance(hardware, str) and hardware not in PROFILES:
                raise ValueError(
                    f"unknown hardware {hardware!r}{_near(hardware)}; `ollamamax catalogue hardware` lists the "
                    "profiles, or give a table"
                )
            found += [PROFILES[hardware] if isinstance(hardware, str) else hardware] * group.count
        return found

    def hands_of_nodes(self) -> list[frozenset[HandKind]]:
        """What can be done to each node, in order."""
        found: list[frozenset[HandKind]] = []
        for group in self._groups():
            found += [frozenset(self.hands if group.hands is None else group.hands)] * group.count
        return found

    def _groups(self) -> list[NodeGroup]:
        return self.groups or [NodeGroup(count=self.nodes or 0)]

    def node_names(self) -> list[str]:
        """node-0, node-1 ..."""
        return [f"node-{index}" for index in range(len(self.hardware_of_nodes()))]

    def agents_or_none(self) -> Agents | None:
        """How the agents send; None where there are none."""
        if isinstance(self.agents, Agents):
            return self.agents
        return Agents() if self.agents else None

    def gateway_names(self) -> list[str]:
        """gateway-0, gateway-1 ..."""
        return [f"gateway-{place}" for place in range(len(self._gateway_places()))]

    def _gateway_places(self) -> list[GatewayPlace]:
        return [GatewayPlace()] * self.gateways if isinstance(self.gateways, int) else self.gateways

    def topology(self) -> Topology:
        """The network as a tree. Raises ValueError where its names do not fit together."""
        return Topology(self.network, self.node_names(), self._gateway_places())

    def size_gib(self, name: str) -> float:
        """The weights alone."""
        given = self.models[name].size_gib
        if given is None and name not in MODELS:
            raise ValueError(f"the size of model {name} is not known; give size_gib and kv_mib_per_1k_tokens")
        return given if given is not None else MODELS[name].size_gib

    def slots_of(self, name: str) -> int:
        """Requests that a runner of the model serves at once: OLLAMA_NUM_PARALLEL, or what Ollama forces."""
        forced = MODELS[name].parallel if name in MODELS else 0
        return forced or (1 if self.is_embedding(name) else self.slots_per_model)

    def is_embedding(self, name: str) -> bool:
        """Whether the model makes embeddings and no text, as the file or the catalogue says."""
        return self.models[name].embedding or (name in MODELS and MODELS[name].embedding)

    def context_of(self, name: str) -> int:
        """num_ctx of a runner of the model, where the request names none."""
        return self._context_of(name, self._context_tokens)

    def memory_gib(self, name: str) -> float:
        """Memory of a loaded model: its weights, and the KV cache for all its slots."""
        return self._memory_gib(name, self._context_tokens)

    def models_kept(self, hardware: Hardware) -> int:
        """Models that a node keeps loaded at most."""
        return self.max_loaded_models or MODELS_PER_GPU * hardware.gpus

    def spec(self) -> ClusterSpec:
        """The cluster as a policy knows it: replicas of each model spread over the nodes with fewest."""
        placement = self._placement(self._context_tokens)
        racks = {node: rack for rack, nodes in self.topology().racks.items() for node in nodes}
        nodes = tuple(
            NodeSpec(name, hardware.total_vram_gib, self.models_kept(hardware), racks.get(name, ""), hands)
            for name, hardware, hands in zip(
                self.node_names(), self.hardware_of_nodes(), self.hands_of_nodes(), strict=True
            )
        )
        models = tuple(
            ModelSpec(name, self.memory_gib(name), model.replicas, self.slots_of(name), self.context_of(name))
            for name, model in self.models.items()
        )
        return ClusterSpec(nodes, models, placement)

    @functools.cached_property
    def _context_tokens(self) -> int:
        """The longest context of Ollama's tiers with which all models have room beside each other on every machine. Ollama
        goes by GPU memory alone, and would evict one model for the next: a scenario that wants that gives the context.
        """
        if self.context_tokens is not None:
            return self.context_tokens
        machines = list({id(hardware): hardware for hardware in self.hardware_of_nodes()}.values())
        smallest = min(h.total_vram_gib if h.kind != "cpu" else 0.0 for h in machines)
        tiers = [tokens for _, tokens in CONTEXT_TIERS if tokens <= context_tier(smallest)]
        for tokens in tiers[:-1]:
            if all(self._all_fit_together(hardware, tokens) for hardware in machines):
                return tokens
        return tiers[-1]

    def _all_fit_together(self, hardware: Hardware, tokens: int) -> bool:
        free_gib = [hardware.vram_gib] * hardware.gpus
        for number, name in enumerate(self.models):
            place = fit(self._memory_gib(name, tokens), free_gib, alone=number == 0)
            if place is None:
                return False
            free_gib = [gib - taken for gib, taken in zip(free_gib, place.vram_gib, strict=True)]
        return True

    def _context_of(self, name: str, tokens: int) -> int:
        """A model that is known has no more than it was trained for, unless the scenario asks for it."""
        if self.context_tokens is None and name in MODELS:
            return min(tokens, MODELS[name].context_tokens)
        return tokens

    def _memory_gib(self, name: str, tokens: int) -> float:
        given = self.models[name].kv_mib_per_1k_tokens
        kv_mib = given if given is not None else MODELS[name].kv_mib_per_1k_tokens if name in MODELS else 0.0
        cache_gib = kv_mib * self._context_of(name, tokens) / 1000.0 * self.slots_of(name) / MIB_PER_GIB
        return self.size_gib(name) + cache_gib

    def _placement(self, tokens: int) -> dict[str, tuple[str, ...]]:
        """Node name to its models, by the rules of the nodes' own ledgers. Raises ValueError where they do not fit."""
        machines = dict(zip(self.node_names(), self.hardware_of_nodes(), strict=True))
        largest_gib = max(hardware.total_vram_gib for hardware in machines.values())
        free = {name: [hardware.vram_gib] * hardware.gpus for name, hardware in machines.items()}
        placement: dict[str, list[str]] = {name: [] for name in machines}
        for model, wanted in self.models.items():
            need_gib = self._memory_gib(model, tokens)
            if need_gib > largest_gib:
                raise ValueError(
                    f"model {model} needs {need_gib:.1f} GiB and fits no node (the largest has {largest_gib:g} GiB)"
                )
            candidates: list[tuple[int, int, str, Placement]] = []
            for index, (name, hardware) in enumerate(machines.items()):
                if len(placement[name]) < self.models_kept(hardware):
                    place = fit(need_gib, free[name], alone=not placement[name])
                    if place is not None:
                        candidates.append((len(placement[name]), index, name, place))
            if len(candidates) < wanted.replicas:
                room_gib = max(sum(free[name]) for name in machines)
                raise ValueError(
                    f"{wanted.replicas} replicas of {model} ({need_gib:.1f} GiB each) do not fit: {len(candidates)} nodes "
                    f"have room (at most {room_gib:.1f} GiB are free on a node; beside others Ollama fills 80 %)"
                )
            for _, _, name, place in sorted(candidates, key=lambda candidate: candidate[:2])[: wanted.replicas]:
                placement[name].append(model)
                free[name] = [gib - taken for gib, taken in zip(free[name], place.vram_gib, strict=True)]
        return {name: tuple(loaded) for name, loaded in placement.items()}

    @model_validator(mode="after")
    def _it_is_possible(self) -> Cluster:
        self._placement(self._context_tokens)
        self.topology()
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

    @model_validator(mode="after")
    def _they_go_together(self) -> PolicyChoice:
        try:
            self.parameters()
        except ParameterError as error:
            raise ValueError(str(error)) from error
        return self

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
    arrivals: Arrivals | None = None
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
    fault_generators: Annotated[
        list[FaultGenerator], Field(description="Faults that are drawn for each seed, beside those of `faults`.")
    ] = []
    settle_s: Annotated[
        float,
        Field(
            ge=0,
            description="How long the run goes on after its load, with every fault ended. Then queues must be empty, every "
            "node back and every incident closed; 0: it ends with its last request, and nothing of this is asked.",
        ),
    ] = 0.0
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
        topology = self.cluster.topology()
        for place, generator in enumerate(self.fault_generators):
            if generator.kind != "swarm":
                try:
                    check_words(topology, generator.target)
                except ValueError as error:
                    raise ValueError(f"fault_generators[{place}]: {error}") from error
        for place, fault in enumerate(self.faults):
            try:
                check_target(topology, fault)
            except ValueError as error:
                raise ValueError(f"faults[{place}]: {error}") from error
            if fault.at_s >= self.end_of_load_s:
                raise ValueError(
                    f"faults[{place}]: at_s {fault.at_s:g} is after the load's end ({self.end_of_load_s:g} s)"
                )
        for place, generator in enumerate(self.fault_generators):
            at_s = getattr(generator, "at_s", None)
            if at_s is not None and at_s >= self.end_of_load_s:
                raise ValueError(
                    f"fault_generators[{place}]: at_s {at_s:g} is after the load's end ({self.end_of_load_s:g} s)"
                )
        for key in ("models", "embed_models"):
            for model in getattr(self.workload, key) or {}:
                if model not in self.cluster.models:
                    raise ValueError(f"workload.{key} names {model}, which the cluster does not serve")
        names = topology.nodes
        for place, order in enumerate(self.orders):
            if order.node not in names:
                raise ValueError(f"orders[{place}]: {order.node!r} is no node ({names[0]} to {names[-1]})")
            if order.at_s >= self.end_of_load_s:
                raise ValueError(
                    f"orders[{place}]: at_s {order.at_s:g} is after the load's end ({self.end_of_load_s:g} s)"
                )
        return self

    @model_validator(mode="after")
    def _it_stays_within_what_was_measured(self) -> Scenario:
        problems = outside(self)
        if problems:
            raise ValueError(
                f"outside of the calibration: {'; '.join(problems)}; calibrate with such a load, or take guesses for what "
                "they are: --set cluster.hardware.calibration.extrapolate=true"
            )
        return self

    @model_validator(mode="after")
    def _live_is_possible(self) -> Scenario:
        try:
            self.for_live()
        except ValidationError as error:
            raise ValueError(f"live: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error
        except ValueError as error:
            raise ValueError(f"live.{error}") from error
        return self

    @property
    def end_of_load_s(self) -> float:
        """When the last request may arrive."""
        return self.workload.warmup_s + self.workload.duration_s

    @property
    def end_s(self) -> float:
        """When the run may end."""
        return self.end_of_load_s + self.settle_s

    def for_live(self) -> Scenario:
        """The scenario as the live world runs it: with what `live` says put in its place."""
        cluster, workload = self.cluster, self.workload
        if self.live.slots_per_model is not None:
            cluster = Cluster.model_validate(cluster.model_dump() | {"slots_per_model": self.live.slots_per_model})
        changes: dict[str, Any] = {}
        if self.live.arrivals is not None:
            changes["arrivals"] = self.live.arrivals
        elif self.live.rate_rps is not None:
            changes["arrivals"] = workload.with_rate(self.live.rate_rps)
        for key in ("prompt_tokens", "output_tokens"):
            if getattr(self.live, key) is not None:
                changes[key] = getattr(self.live, key)
        return self.model_copy(update={"cluster": cluster, "workload": workload.model_copy(update=changes)})
