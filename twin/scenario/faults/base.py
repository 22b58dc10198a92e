"""What every fault has: when, at whom, for how long; and the primitive operations that a world can perform."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

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
]


@dataclass(frozen=True, slots=True)
class Step:
    """One primitive operation, `after_s` seconds after the fault's beginning."""

    after_s: float
    operation: Operation
    argument: float = 0.0


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
    live: str = "twin only"  # how a machine really does it


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

    def onset(self) -> Iterator[Step]:
        """What is done, from the beginning on. May go on for ever where there is no `duration_s`."""
        raise NotImplementedError

    def ending(self) -> Iterator[Step]:
        """What the outside world does at the end of `duration_s`."""
        raise NotImplementedError
