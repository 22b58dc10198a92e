"""What every fault has: when, at whom, for how long; and the primitive operations that a world can perform."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

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
    "slow_gpu",  # argument: every step and prefill takes this many times as long
    "set_condition",  # the node's `condition` takes the value `argument` until the fault is over
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
class Step:
    """One primitive operation, `after_s` seconds after the fault's beginning."""

    after_s: float
    operation: Operation
    argument: float = 0.0
    condition: str = ""  # of `set_condition`: a row of `twin.scenario.conditions`
    link: LinkChange | None = None  # of a network operation


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
    live: str = ""  # how it is done to a real node; empty: in the twin only


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

    @model_validator(mode="after")
    def _signs_are_possible(self) -> Fault:
        if self.lead_s and not self.has_signs():
            raise ValueError(f"{self.about.kind} has no signs beforehand; leave lead_s away")
        if self.comes_to_nothing and not self.lead_s:
            raise ValueError("comes_to_nothing needs a lead_s: there is nothing else to see of it")
        return self

    @classmethod
    def has_signs(cls) -> bool:
        """Whether anything can be seen beforehand."""
        return cls.signs is not Fault.signs

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
