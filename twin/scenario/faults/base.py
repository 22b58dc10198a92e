"""What every fault has: when, at whom, for how long; and the primitive operations that a world can perform."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from twin.scenario.conditions import Part

Operation: TypeAlias = Literal[
    "kill_server",  # the Ollama server and its runners die at once
    "start_server",  # the server starts, with nothing loaded
    "kill_runner",  # the runner processes die; the server stays
    "pause_runner",  # the runner processes stop executing; connections stay open, the server answers what needs no runner
    "resume_runner",
    "stick_loader",  # the scheduler's one loading routine stops for good; only a new server process frees it
    "cut_network",  # no byte passes in the link's `blocked` direction; nothing is closed
    "slow_network",  # argument: milliseconds added to each direction
    "lose_packets",  # argument: share of the packets that are lost, each way
    "limit_bandwidth",  # argument: kilobytes per second that pass, each way
    "refuse_network",  # whoever connects is refused at once; connections that were open are reset
    "reset_connections",  # connections that are open are reset, once; new ones are well
    "restore_network",  # what this fault did to the network is taken back
    "garble_runner",  # argument: share of the loaded models' answers that is gibberish until they are loaded anew
    "slow_gpu",  # argument: every step and prefill takes this many times as long
    "pull_models",  # somebody pulls every model of the node anew
    "set_condition",  # the node's `condition` takes the value `argument` until the fault is over
    "expire_models",  # keep_alive of every loaded model runs out: each is let go once it is idle
    "foreign_clients",  # the step's `clients` ask the node directly until the fault is over
]

NETWORK_OPERATIONS: frozenset[Operation] = frozenset(
    {
        "cut_network",
        "slow_network",
        "lose_packets",
        "limit_bandwidth",
        "refuse_network",
        "reset_connections",
        "restore_network",
    }
)

Direction: TypeAlias = Literal["both", "to_node", "from_node"]
"""Seen from the gateways: requests go to the node, answers come from it."""


@dataclass(frozen=True, slots=True)
class LinkChange:
    """What a network operation does to a link, beside what else is wrong with it."""

    latency_ms: float = 0.0  # added, each way
    jitter_ms: float = 0.0  # added
    loss: float = 0.0
    bandwidth_kb_per_s: float | None = None  # each way; 1 kB = 1,000 bytes
    blocked: Direction | None = None
    refuses: bool = False


@dataclass(frozen=True, slots=True)
class ForeignClients:
    """Clients that ask a node directly, past the gateway. Each asks, waits for the answer, thinks, and asks again."""

    clients: int
    prompt_tokens: int
    output_tokens: int
    think_s: float  # mean, exponential: from an answer, good or bad, to the next request
    own_models: Literal["none", "one", "too_many"] = "none"
    """Models that only they ask for, each as large as the first that the cluster serves: `too_many` do not fit beside
    each other. `none`: they ask for the first model that the cluster serves."""
    context_tokens: int = 0  # num_ctx; 0: the model's own
    patience_s: float = math.inf  # after which they hang up, and ask again at once


@dataclass(frozen=True, slots=True)
class Step:
    """One primitive operation, `after_s` seconds after the fault's beginning."""

    after_s: float
    operation: Operation
    argument: float = 0.0
    condition: str = ""  # of `set_condition`: a row of `twin.scenario.conditions`
    foreign: ForeignClients | None = None  # of `foreign_clients`
    link: LinkChange | None = None  # of a network operation


RAMP_STEPS = 20
ALL_GPUS = 16
"""As many as a node can have (`Hardware.gpus`): for the condition `gpus_lost`."""


def ramp(condition: str, start: float, end: float, over_s: float) -> Iterator[Step]:
    """A condition goes from `start` to `end` in a staircase of twenty steps; where it takes no time, at once to `end`."""
    for count in range(RAMP_STEPS if over_s else 0):
        share = count / RAMP_STEPS
        yield Step(over_s * share, "set_condition", start + (end - start) * share, condition)
    yield Step(over_s, "set_condition", end, condition)


def merged(*series: Iterator[Step]) -> Iterator[Step]:
    """Steps of several series in order of time."""
    return heapq.merge(*series, key=lambda step: step.after_s)


@dataclass(frozen=True, slots=True)
class About:
    """What the catalogue prints of a fault kind."""

    kind: str
    identifier: str  # its row in the catalogue of failures, e.g. F03
    what: str
    symptom: str
    precursor: str
    source: str
    ended_by_restart: bool  # a new server process ends it
    instant: bool = False  # it happens, and is over; what it broke is left
    emerges: str = ""
    """The condition that it sets at `at_s`, where the failure itself comes later, out of the load: that is then when it
    was injected (`faults`); what never comes leaves no row."""
    live: str = ""  # how it is done to a real node; empty: only nodes that are simulated or emulated can have it
    ended_by_reload: bool = False  # it is over once the models that were loaded have been let go
    ended_by_kill: bool = False  # it lives in the runner processes, and is over once they are gone
    ended_by_pull: bool = False  # it lives in the files of models, and is over once these have been pulled anew
    twin_only: bool = False  # neither real nor emulated nodes can have it
    part: Part = "node"  # what it is done to; `target` names nodes, and has no meaning for the others


def _name_or_part(value: object) -> str:
    """Which of the two was meant, so that only its own errors are shown."""
    return "Part" if isinstance(value, dict) else "Name"


Target: TypeAlias = Annotated[
    Annotated[str, Tag("Name")] | Annotated[dict[Literal["rack", "zone", "gateway"], str], Tag("Part")],
    Discriminator(_name_or_part),
]


TARGET = "A node's name, random, random(N), all, {rack: NAME}, {zone: NAME}, random_rack or random_zone."


class Fault(BaseModel):
    """One fault of a scenario: `kind`, `at_s` (from the start of the run), `target`, and how long it lasts."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    about: ClassVar[About]

    at_s: Annotated[float, Field(ge=0, description="When, in seconds from the start of the run (warm-up included).")]
    target: Annotated[Target, Field(description=TARGET)] = "random"
    duration_s: Annotated[
        float | None,
        Field(gt=0, description="When the outside world would end it if nobody did before; absent: never."),
    ] = None

    lead_s: Annotated[
        float, Field(ge=0, description="How long before `at_s` its signs begin; 0: it comes without a sign.")
    ] = 0.0
    comes_to_nothing: Annotated[
        bool, Field(description="A look-alike: its signs are there for `lead_s`, and then nothing happens.")
    ] = False
    in_answer: Annotated[
        bool,
        Field(
            description="From `at_s` on it waits until its target is in the midst of an answer; it does not come where the "
            "load ends before."
        ),
    ] = False

    @model_validator(mode="after")
    def _signs_are_possible(self) -> Fault:
        if self.lead_s and not self.has_signs():
            raise ValueError(f"{self.about.kind} has no signs beforehand; leave lead_s away")
        if self.comes_to_nothing and not self.lead_s:
            raise ValueError("comes_to_nothing needs a lead_s: there is nothing else to see of it")
        if self.in_answer and (self.lead_s or self.about.part != "node" or isinstance(self.target, dict)):
            raise ValueError("in_answer is for nodes that are struck without a sign; leave lead_s away, and name nodes")
        if self.about.part != "node" and self.target != "random":
            raise ValueError(f"{self.about.kind} is a fault of the {self.about.part}; leave target away")
        return self

    @classmethod
    def has_signs(cls) -> bool:
        """Whether anything can be seen beforehand."""
        return cls.signs is not Fault.signs

    def is_instant(self) -> bool:
        """Whether it is over as soon as it was done."""
        return self.about.instant

    def signs(self) -> Iterator[Step]:
        """What can be seen beforehand: steps from `lead_s` before `at_s` on, conditions only."""
        yield from ()

    def onset(self) -> Iterator[Step]:
        """What is done, from the beginning on. May go on for ever where there is no `duration_s`."""
        raise NotImplementedError

    def ending(self) -> Iterator[Step]:
        """What the outside world does at the end of `duration_s`."""
        raise NotImplementedError


class NetworkFault(Fault):
    """A fault of the network: it strikes the link of a node, or the uplink of a rack, a zone or a gateway."""

    seen_from: Annotated[
        str | None, Field(description="Only between this gateway and the target; the others notice nothing.")
    ] = None

    def ending(self) -> Iterator[Step]:
        """As it was."""
        yield Step(0.0, "restore_network")
