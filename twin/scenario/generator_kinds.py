"""The kinds of fault generators, as they stand in a scenario. `generators.py` draws the faults that come of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, ValidationError, field_validator, model_validator

from twin.policy.parameters import ParameterError, find
from twin.scenario.closed import Closed
from twin.scenario.durations import ConstantDuration, Duration, UniformDuration
from twin.scenario.faults import FAULT_KINDS
from twin.scenario.faults.base import Fault, Target

OWN_KEYS = ("at_s", "target", "duration_s")
"""What the generator says of a fault; all else is in its template."""


def fault_of(template: dict[str, Any], at_s: float, target: Target, duration_s: float | None) -> Fault:
    """The fault of a template at that time. Raises pydantic's `ValidationError`."""
    kind = FAULT_KINDS[template["kind"]]
    document = {**template, "at_s": at_s, "duration_s": duration_s}
    if kind.about.part == "node":  # the others have no target
        document["target"] = target
    return kind.model_validate(document)


class _Generator(Closed):
    """What generators of one fault kind have in common."""

    fault: Annotated[dict[str, Any], Field(description="A fault without at_s, target and duration_s, which are drawn.")]

    @field_validator("fault")
    @classmethod
    def _a_fault(cls, value: dict[str, Any]) -> dict[str, Any]:
        kind = value.get("kind")
        if kind not in FAULT_KINDS:
            raise ValueError(f"fault: unknown kind {kind}; there are {', '.join(FAULT_KINDS)}")
        for key in OWN_KEYS:
            if key in value:
                raise ValueError(f"fault: {key} is drawn by the generator; take it out")
        try:
            fault_of(value, 0.0, "random", None)
        except ValidationError as error:
            problem = error.errors()[0]
            raise ValueError(f"fault: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error
        part = FAULT_KINDS[kind].about.part
        if part != "node":  # a generator draws nodes
            raise ValueError(f"fault: {kind} is a fault of the {part}; list it in faults, or leave it to a swarm")
        return value


class Renewal(_Generator):
    """Failures that come back. With `clock: node` every node has its own: it works for a time, fails, is repaired, works
    again. With `clock: cluster` one clock strikes a node drawn among those that this generator has not struck down."""

    kind: Literal["renewal"]
    clock: Literal["node", "cluster"] = "node"
    target: Annotated[Target, Field(description="Which nodes may be struck: a name, random(N), all, {rack: NAME}.")] = (
        "all"
    )
    time_between_failures: Annotated[
        Duration, Field(description="Of a node: from its repair to its next failure. Of the cluster: between failures.")
    ]
    repair: Annotated[
        Duration | None, Field(description="How long the outside world takes; null: it never repairs.")
    ] = None
    from_s: Annotated[float | None, Field(ge=0, description="Absent: from the end of the warm-up.")] = None
    at_most_down: Annotated[
        int | None, Field(ge=1, description="A failure that would be one more at once is left out.")
    ] = None


class Cascade(_Generator):
    """One falls, its load moves, and who has most of it then falls next. Which that is is worked out beforehand, not seen
    in the run: each model's share of the work, spread over its replicas that still stand (drawn where several are equal),
    so that all policies meet the same cascade."""

    kind: Literal["cascade"]
    at_s: Annotated[float, Field(ge=0)]
    target: Annotated[Target, Field(description="Who falls first.")] = "random"
    victims: Annotated[int, Field(ge=2, description="How many fall in all.")]
    delay: Annotated[Duration, Field(description="From one fall to the next.")]
    repair: Annotated[Duration | None, Field(description="Of each; null: never.")] = None


class Correlated(_Generator):
    """One event strikes several nodes, or all of a rack, within a short time."""

    kind: Literal["correlated"]
    at_s: Annotated[float | None, Field(ge=0, description="Once, at that time.")] = None
    time_between_events: Annotated[Duration | None, Field(description="Or again and again.")] = None
    target: Annotated[Target, Field(description="Drawn anew for each event.")] = "random(2)"
    spread_s: Annotated[float, Field(ge=0, description="The nodes are struck at any time within it.")] = 1.0
    repair: Annotated[Duration | None, Field(description="Of each node; null: never.")] = None

    @model_validator(mode="after")
    def _when(self) -> Correlated:
        if (self.at_s is None) == (self.time_between_events is None):
            raise ValueError("give either at_s or time_between_events")
        return self


class Swizzle(_Generator):
    """Stop nodes one by one in random order, then bring them back one by one in another random order (after the way
    FoundationDB is tested)."""

    kind: Literal["swizzle"]
    at_s: Annotated[float, Field(ge=0)]
    target: Annotated[Target, Field(description="Which nodes.")] = "random(2)"
    stop_gap: Annotated[Duration, Field(description="From one stop to the next.")]
    hold: Annotated[Duration, Field(description="From the last stop to the first return.")] = ConstantDuration(
        kind="constant", mean_s=0.0
    )
    return_gap: Annotated[Duration, Field(description="From one return to the next.")]


class Count(Closed):
    """A whole number between two bounds."""

    min: Annotated[int, Field(ge=0)]
    max: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _in_order(self) -> Count:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class Swarm(Closed):
    """Each seed draws for itself which kinds are on (each with chance one half), how many faults there are, when, where,
    for how long, and their parameters: from half to twice the default, within what the kind allows (swarm testing).
    Kinds that can show beforehand do so now and then, and now and then nothing comes of it. `policy` names parameters of
    the policy of which each seed draws a value, too: what a policy does at its limits is found where these are near."""

    kind: Literal["swarm"]
    kinds: Annotated[
        list[str] | None, Field(min_length=1, description="Kinds that may be on; absent: the whole catalogue.")
    ] = None
    faults: Annotated[Count, Field(description="How many.")] = Count(min=1, max=8)
    duration: Annotated[Duration, Field(description="Of each fault.")]
    at_most_down: Annotated[int, Field(ge=1, description="Nodes under a fault at once, settling included.")] = 1
    settle_s: Annotated[float, Field(ge=0, description="A node counts as down for so long after its fault's end.")] = (
        30.0
    )
    from_s: Annotated[float | None, Field(ge=0, description="Absent: from the end of the warm-up.")] = None
    until_s: Annotated[
        float | None, Field(ge=0, description="No fault begins later; absent: up to the end of the load.")
    ] = None
    signs_share: Annotated[
        float, Field(ge=0, le=1, description="Of the faults of kinds that can show beforehand, the share that do.")
    ] = 0.5
    look_alike_share: Annotated[
        float, Field(ge=0, le=1, description="Of those that show beforehand, the share that come to nothing.")
    ] = 0.25
    lead: Annotated[Duration, Field(description="How long before a fault its signs begin.")] = UniformDuration(
        kind="uniform", min_s=5.0, max_s=60.0
    )
    policy: Annotated[
        dict[str, Annotated[list[bool | int | float | str], Field(min_length=1)]],
        Field(
            default_factory=dict,
            description="Parameters of the policy, each with the values of which a seed draws one.",
        ),
    ]

    @field_validator("policy")
    @classmethod
    def _parameters_exist(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for name, choices in value.items():
            for choice in choices:
                try:
                    find(name).check(choice)
                except ParameterError as error:
                    raise ValueError(f"policy: {error}") from error
        return value

    @field_validator("kinds")
    @classmethod
    def _known(cls, value: list[str] | None) -> list[str] | None:
        for kind in value or ():
            if kind not in FAULT_KINDS:
                raise ValueError(f"kinds: unknown kind {kind}; there are {', '.join(FAULT_KINDS)}")
        return value


FaultGenerator: TypeAlias = Annotated[Renewal | Cascade | Correlated | Swizzle | Swarm, Field(discriminator="kind")]
