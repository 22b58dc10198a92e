"""What every fault has: when, at whom, for how long; and the primitive operations that a world can perform."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

Operation: TypeAlias = Literal[
    "kill_server",  # the Ollama server and its runners die at once
    "start_server",  # the server starts, with nothing loaded
    "kill_runner",  # the runner processes die; the server stays
    "pause_runner",  # the runner processes stop executing; connections stay open, the server answers what needs no runner
    "resume_runner",
    "stick_loader",  # the scheduler's one loading routine stops for good; only a new server process frees it
    "cut_network",  # no byte passes between gateway and node, in either direction; nothing is closed
    "slow_network",  # argument: milliseconds added to each direction
    "restore_network",
    "slow_gpu",  # argument: every step and prefill takes this many times as long
    "set_condition",  # the node's `condition` takes the value `argument` until the fault is over
]


@dataclass(frozen=True, slots=True)
class Step:
    """One primitive operation, `after_s` seconds after the fault's beginning."""

    after_s: float
    operation: Operation
    argument: float = 0.0
    condition: str = ""  # of `set_condition`: a row of `twin.scenario.conditions`


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


Target: TypeAlias = str | dict[str, str]


class Fault(BaseModel):
    """One fault of a scenario: `kind`, `at_s` (from the start of the run), `target`, and how long it lasts."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    about: ClassVar[About]

    at_s: Annotated[float, Field(ge=0, description="When, in seconds from the start of the run (warm-up included).")]
    target: Annotated[Target, Field(description="A node's name, random, random(N), all, or {rack: NAME}.")] = "random"
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
