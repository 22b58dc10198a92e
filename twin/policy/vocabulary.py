"""The words that a policy and a world exchange.

A world (simulated or live) tells the policy what could be *observed*, as `Observation`s, and asks it two things: where a
request goes (`Route`), and what to do next (`Command`s: `Probe`s and `Action`s). Everything here is plain data.

All times are seconds on the run's monotonic clock, which starts at 0 when the run starts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args

from mypy_extensions import mypyc_attr

from twin.policy.forecast import Forecast

RequestId: TypeAlias = int

NEVER_S: Final = math.inf
"""A time that does not come: the value of a limit that is off."""

AttemptError: TypeAlias = Literal[
    "",  # it ended well
    "refused",  # no connection: nothing listens there
    "reset",  # the connection broke before a terminal record
    "unreachable",  # no connection within the time: nothing answers there
    "server_error",  # a 5xx status before the first byte
    "overloaded",  # a 503: the node's queue is full
    "client_error",  # a 4xx status: the request itself is wrong, as far as this node can tell
    "error_record",  # status 200, then an error in the stream
    "no_terminal_record",  # status 200, then a clean end without the terminal record
    "first_token_timeout",  # nothing came by the route's deadline to the first token
    "stall_timeout",  # tokens came, then none for the route's stall timeout
    "aborted",  # we closed the connection ourselves: the policy gave the node up
    "deadline",  # the request's own deadline passed
    "diverged",  # the stream was to go on on another node, and the text there differed
]
"""How an attempt at a node failed, as the one who talks to the node sees it."""

AttemptOutcome: TypeAlias = Literal["succeeded", "failed", "cancelled"]
"""`succeeded`: the terminal record was seen. `cancelled`: the client went away, which says nothing of the node."""

RouteKind: TypeAlias = Literal["dispatch", "wait", "shed"]

ProbeKind: TypeAlias = Literal[
    "liveness",  # GET /api/version: the process is up, and no more
    "residency",  # GET /api/ps: what is loaded; its latency is a probe of the scheduler's lock
    "generation",  # one token from a named model: the runner works (loads the model where it is not loaded)
    "load_path",  # load a small model that is not loaded, and let it go: the scheduler's one loader works
]

ActionKind: TypeAlias = Literal[
    "abort",  # close our own connections to the node; their requests go on elsewhere
    "restart",  # restart the node's Ollama service
    "kill_runner",  # kill the node's runner processes; its server loads the models again when they are asked for
    "load",  # load a model on a node
    "unload",  # ask a node to let a model go
    "pull",  # have a node fetch a model, also one that it has: its files may be damaged
    "copy",  # give a model of a node a second name
    "drain",  # send no new request to the node
    "return",  # end a drain
    "shift",  # send the node fewer requests than others, for a while
    "set",  # take another value of a parameter; of no node
]
BOOKKEEPING_ACTIONS: Final[frozenset[str]] = frozenset({"drain", "return", "shift", "set"})
"""Actions that happen within the policy; a world has nothing to do for them but to write them down."""

HandKind: TypeAlias = Literal["restart", "kill_runner", "load", "unload", "pull", "copy"]
HAND_ACTIONS: Final[frozenset[str]] = frozenset(get_args(HandKind))
"""Actions for which somebody must have a hand at the node; `abort` the world does itself."""

DISRUPTIVE_ACTIONS: Final[frozenset[str]] = frozenset({"restart", "kill_runner", "unload"})
"""Actions that can cost running work; caps, cooldowns and floors hold for these."""

OPERATOR_REASON: Final = "the operator ordered it"
"""The reason of an action that no failure called for."""

ActionStatus: TypeAlias = Literal["done", "failed", "timed_out", "unknown", "advised", "no_hand", "no_lease"]
"""`advised`: it was to be decided and written down, and not to be done. `no_hand`: nobody at the node can do this, so
that nothing was tried. `no_lease`: likewise nothing was tried, because another gateway's controller may act now."""

NOT_TRIED: Final[frozenset[ActionStatus]] = frozenset({"no_hand", "no_lease"})
"""Results that say nothing of what was ordered."""


FIT_SHARE: Final = 0.8
"""Ollama loads a model beside others only where it is predicted to take at most this share of the memory that is free;
else it lets others go first (`server/sched.go`)."""


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """What an operator knows of a node: its name, the GPU memory that its models must fit in, and how many it keeps."""

    name: str
    vram_gib: float = NEVER_S
    max_models: int = 0  # OLLAMA_MAX_LOADED_MODELS; 0: not known
    rack: str = ""  # what fails together with it; empty: not known
    hands: frozenset[str] = HAND_ACTIONS  # kinds of actions that somebody can do to it


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What an operator knows of a model: memory when loaded, wanted replicas, requests that a replica serves at once."""

    name: str
    memory_gib: float
    replicas: int
    slots: int
    context_tokens: int = 0  # num_ctx with which it is loaded where nobody says otherwise; 0: not known


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """The cluster as the policy knows it before anything is observed. `placement`: node name to its loaded models."""

    nodes: tuple[NodeSpec, ...]
    models: tuple[ModelSpec, ...]
    placement: dict[str, tuple[str, ...]] = field(default_factory=dict)
    stored: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The models on a node's disk; a node that is not named has them all."""


CANNOT_SAY: Final = -1
"""The num_ctx of a request that says none, and cannot be made to: not every endpoint of Ollama takes one."""

# The classes of the hot path spell out their `__init__`: compiled, it is a native call; a generated one is not.


@dataclass(slots=True, init=False)
class RequestSpec:
    """A request as it can be known on arrival. Token counts are estimates; how long the answer will be is unknown."""

    request_id: RequestId
    model: str
    prompt_tokens: int
    stream: bool
    arrival_s: float
    deadline_s: float  # the time (not the duration) by which it must have ended
    context_tokens: int  # num_ctx where the client asks for one, else 0: the model's own
    session: int  # the conversation that it goes on with, where the client says so; 0: none
    client: int  # who asks, so that clients take turns in a queue; 0: not known
    sent_context_tokens: (
        int  # num_ctx that a node is told where its route says none: one for all clients; or `CANNOT_SAY`
    )

    def __init__(
        self,
        request_id: RequestId,
        model: str,
        prompt_tokens: int,
        stream: bool,
        arrival_s: float,
        deadline_s: float,
        context_tokens: int = 0,
        session: int = 0,
        client: int = 0,
        sent_context_tokens: int = 0,
    ) -> None:
        self.request_id = request_id
        self.model = model
        self.prompt_tokens = prompt_tokens
        self.stream = stream
        self.arrival_s = arrival_s
        self.deadline_s = deadline_s
        self.context_tokens = context_tokens
        self.session = session
        self.client = client
        self.sent_context_tokens = sent_context_tokens


@dataclass(slots=True, init=False)
class Route:
    """What the policy decided for one attempt of a request; the world enforces it and decides nothing.

    `dispatch`: send it to `node` now, under the limits given. `wait`: keep it; `Policy.released` will say when its turn
    has come. `shed`: answer now that it cannot be served (503 and Retry-After before admission, an error after).
    """

    kind: RouteKind
    node: str
    first_token_deadline_s: float  # counted from the dispatch
    stall_timeout_s: float  # longest silence between two tokens
    loads: bool  # the node must load the model first, or anew: a load goes on when nobody waits for it any more
    retry_after_s: float
    reason: str
    context_tokens: int  # num_ctx to send, where the client asks for none: with what the node has it loaded; 0: none

    def __init__(
        self,
        kind: RouteKind,
        node: str = "",
        first_token_deadline_s: float = NEVER_S,
        stall_timeout_s: float = NEVER_S,
        loads: bool = False,
        retry_after_s: float = 0.0,
        reason: str = "",
        context_tokens: int = 0,
    ) -> None:
        self.context_tokens = context_tokens
        self.kind = kind
        self.node = node
        self.first_token_deadline_s = first_token_deadline_s
        self.stall_timeout_s = stall_timeout_s
        self.loads = loads
        self.retry_after_s = retry_after_s
        self.reason = reason


@dataclass(slots=True, init=False)
class AttemptEnded:
    """An attempt of a request at a node ended. Timings are Ollama's own, in seconds, 0 where it gave none."""

    request_id: RequestId
    attempt: int  # 0 for the first
    node: str
    model: str
    outcome: AttemptOutcome
    error: AttemptError
    started_s: float
    first_token_s: float  # nan: no token came
    tokens: int  # received in this attempt
    load_duration_s: float
    prompt_eval_duration_s: float
    eval_duration_s: float
    total_duration_s: float
    prompt_eval_count: int  # prompt tokens that the node says it evaluated
    repeat_ratio: float  # share of the answer's tokens that equal the one before, where somebody counted

    def __init__(
        self,
        request_id: RequestId,
        attempt: int,
        node: str,
        model: str,
        outcome: AttemptOutcome,
        error: AttemptError,
        started_s: float,
        first_token_s: float,
        tokens: int,
        load_duration_s: float = 0.0,
        prompt_eval_duration_s: float = 0.0,
        eval_duration_s: float = 0.0,
        total_duration_s: float = 0.0,
        prompt_eval_count: int = 0,
        repeat_ratio: float = 0.0,
    ) -> None:
        self.request_id = request_id
        self.attempt = attempt
        self.node = node
        self.model = model
        self.outcome = outcome
        self.error = error
        self.started_s = started_s
        self.first_token_s = first_token_s
        self.tokens = tokens
        self.load_duration_s = load_duration_s
        self.prompt_eval_duration_s = prompt_eval_duration_s
        self.eval_duration_s = eval_duration_s
        self.total_duration_s = total_duration_s
        self.prompt_eval_count = prompt_eval_count
        self.repeat_ratio = repeat_ratio


@dataclass(slots=True)
class RequestWithdrawn:
    """A request that was waiting needs no route any more: its client went away, or its deadline passed."""

    request_id: RequestId


@dataclass(slots=True, init=False)
class ProbeResult:
    """A probe came back, or did not within its time (`error` says how). `models`: what a residency probe saw loaded,
    `contexts`: with which num_ctx each of them, 0 where the node does not say, or not which one was asked for."""

    probe_id: int
    node: str
    kind: ProbeKind
    model: str
    ok: bool
    latency_s: float
    error: AttemptError
    models: tuple[str, ...]
    contexts: tuple[int, ...]

    def __init__(
        self,
        probe_id: int,
        node: str,
        kind: ProbeKind,
        model: str,
        ok: bool,
        latency_s: float,
        error: AttemptError = "",
        models: tuple[str, ...] = (),
        contexts: tuple[int, ...] = (),
    ) -> None:
        self.probe_id = probe_id
        self.node = node
        self.kind = kind
        self.model = model
        self.ok = ok
        self.latency_s = latency_s
        self.error = error
        self.models = models
        self.contexts = contexts


@dataclass(slots=True)
class TelemetrySample:
    """What an agent read from a node's machine: named values with their unit in the name."""

    node: str
    values: dict[str, float]


@dataclass(slots=True)
class ActionResult:
    """The one result of an action."""

    action_id: int
    node: str
    kind: ActionKind
    status: ActionStatus
    detail: str = ""


OrderKind: TypeAlias = Literal[
    "drain",  # set it aside until it is returned, whatever happens to it meanwhile
    "return",  # load its models, let a generation prove it, then give it traffic again, little by little
    "restart",  # set it aside, restart it once it is idle, and return it (unless it was set aside before)
]


@dataclass(slots=True)
class OperatorOrder:
    """What an operator wants done to a node."""

    node: str
    order: OrderKind


@dataclass(slots=True)
class NodeInventory:
    """The models on a node's disk, as it says itself: name to the memory (GiB) that it needs when it is loaded.

    `slots`: how many requests at once a replica serves of a model that was not known before. `shares`: models that have one
    place there, so that loading one ends the other; a text for each place, their names with blanks between.
    """

    node: str
    stored: dict[str, float]
    slots: int
    shares: tuple[str, ...] = ()


@dataclass(slots=True)
class NodeHands:
    """What somebody can do to a node from now on: an agent has come that can do it."""

    node: str
    hands: tuple[str, ...]


AdviceStatus: TypeAlias = Literal[
    "done",
    "late",  # the simulations took too long
    "uncalibrated",  # nothing says that the twin is like this cluster
    "unavailable",  # nobody there can simulate it
]


@dataclass(slots=True)
class Advice:
    """The one answer to a `Question`. `lost`: requests lost within the horizon, for each option that could be simulated."""

    question_id: int
    node: str
    status: AdviceStatus
    lost: dict[str, float]
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """Another value of one parameter, from now on; in the mode `advise` it is only written down."""

    key: str
    value: float
    reason: str  # for a person to read


Observation: TypeAlias = (
    AttemptEnded
    | RequestWithdrawn
    | ProbeResult
    | TelemetrySample
    | ActionResult
    | OperatorOrder
    | NodeInventory
    | NodeHands
    | Advice
    | SettingsChanged
)


@dataclass(slots=True, init=False)
class Probe:
    """A question to a node, to be answered by one `ProbeResult` within `timeout_s`."""

    probe_id: int
    node: str
    kind: ProbeKind
    model: str  # empty where the kind needs none
    timeout_s: float
    context_tokens: int  # of a generation: num_ctx to ask with; 0: none

    def __init__(
        self, probe_id: int, node: str, kind: ProbeKind, model: str, timeout_s: float, context_tokens: int = 0
    ) -> None:
        self.probe_id = probe_id
        self.node = node
        self.kind = kind
        self.model = model
        self.timeout_s = timeout_s
        self.context_tokens = context_tokens


@dataclass(frozen=True, slots=True)
class Action:
    """Something to be done to a node, to be answered by one `ActionResult` by the time `deadline_s`."""

    action_id: int
    kind: ActionKind
    node: str
    model: str  # empty where the kind needs none
    reason: str  # for a person to read
    deadline_s: float
    expected_benefit: float  # requests that it is expected to save, less those that it costs
    destination: str = ""  # the new name of a copy
    context_tokens: int = 0  # of a load: num_ctx to load it with; 0: the model's own
    advice: bool = False  # write it down with the status `advised`, and do nothing


@dataclass(frozen=True, slots=True)
class Question:
    """Asks the world to simulate what might be done to a node, to be answered by one `Advice` by `deadline_s`.

    `options` are names of remedies, `nothing` among them. The world may say that it cannot.
    """

    question_id: int
    node: str
    options: tuple[str, ...]
    horizon_s: float
    deadline_s: float


Command: TypeAlias = Probe | Action | Question

IncidentState: TypeAlias = Literal["open", "draining", "acting", "verifying", "holding", "closed", "given_up"]


@dataclass(slots=True)
class Incident:
    """A failure as the policy saw it, from detection to its verified end. Times are nan until they are known."""

    incident_id: int
    node: str
    diagnosis: str  # e.g. server_down, unreachable, runner_failing, load_path_stuck, slow
    evidence: str  # for a person to read
    opened_s: float
    state: IncidentState = "open"
    verified_s: float = math.nan  # an independent generation passed after the last action
    closed_s: float = math.nan  # ... and it held
    actions: int = 0


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What must outlive a policy object: reload, failover and replay start from it. Plain data, JSON-able."""

    now_s: float
    parts: dict[str, Any]


@mypyc_attr(allow_interpreted_subclasses=True)
class Policy:
    """Decides, and does nothing else: no clock, no socket, no random draw of its own."""

    @property
    def waiting(self) -> int:
        """How many requests it keeps."""
        raise NotImplementedError

    @property
    def incidents(self) -> Sequence[Incident]:
        """What it took for failures so far, without what was settled."""
        raise NotImplementedError

    def settled(self, now: float) -> Sequence[Incident]:
        """The incidents that are over for good and that it keeps no longer: whoever writes them down does so now. A world
        that runs without end asks now and then; where nobody asks all are kept."""
        return ()

    @property
    def reads_telemetry(self) -> bool:
        """Whether it makes use of `TelemetrySample`s; a world keeps them back from a policy that does not."""
        raise NotImplementedError

    def health_of(self, node: str) -> str:
        """What it takes a node for."""
        raise NotImplementedError

    @property
    def telemetry_period_s(self) -> float:
        """How often a node's sample is wanted; a world may keep those between back. 0: every one."""
        return 0.0

    def warnings(self) -> Sequence[tuple[float, Forecast]]:
        """What it foretold with confidence: the time, and the forecast as it began, changed its class, or ended."""
        return ()

    def route(self, now: float, request: RequestSpec, attempt: int) -> Route:
        """Where this attempt of the request goes. The hot path: its cost does not grow with the fleet."""
        raise NotImplementedError

    def released(self, now: float) -> Sequence[tuple[RequestId, Route]]:
        """Requests that were waiting and whose turn has come, each with its route (dispatch or shed)."""
        raise NotImplementedError

    def observe(self, now: float, observation: Observation) -> None:
        """Take in what was seen."""
        raise NotImplementedError

    def decide(self, now: float) -> Sequence[Command]:
        """What to do now: probes and actions."""
        raise NotImplementedError

    def next_wakeup(self) -> float:
        """The time at which `released` and `decide` want to be called next; may move earlier after any other call."""
        raise NotImplementedError

    def snapshot(self) -> PolicyState:
        """What must outlive this object."""
        raise NotImplementedError

    def restore(self, now: float, state: PolicyState) -> None:
        """Go on from what another object knew. To be called before anything else."""
        raise NotImplementedError

    def learn(self, now: float, parts: dict[str, Any]) -> None:
        """Take over what another object had learnt, of its snapshot's parts: not what was the case then."""
        raise NotImplementedError

    def adopt(self, now: float, request: RequestSpec, node: str) -> Route:
        """Take over a request that is at a node already: its route, as if it had been dispatched now."""
        raise NotImplementedError
