"""The registry of models cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from twin.scenario.faults.base import About, Fault, Step, ramp


class RegistryFailure(Fault):
    """Somebody pulls the node's models anew, and the pulls fail, for `cause`. Answers are not affected."""

    about = About(
        kind="registry_failure",
        identifier="F27",
        what="name resolution fails, the certificate is not accepted, or the machine's clock is wrong",
        symptom="/api/pull ends with no such host, or certificate has expired or is not yet valid; answers go on",
        precursor="the clock's offset grows; none for the other causes",
        source="ollama/ollama issues 3336, 3334, 5974",
        ended_by_restart=False,
    )
    kind: Literal["registry_failure"]
    cause: Annotated[Literal["name", "certificate", "clock"], Field(description="Why it cannot be used.")] = "name"
    clock_offset_s: Annotated[
        float, Field(gt=0, le=1e9, description="How far the clock is off in the end, where it is the cause.")
    ] = 200_000.0

    @model_validator(mode="after")
    def _only_a_clock_shows_beforehand(self) -> RegistryFailure:
        if self.lead_s and self.cause != "clock":
            raise ValueError(f"registry_failure by {self.cause} has no signs beforehand; leave lead_s away")
        return self

    def signs(self) -> Iterator[Step]:
        """The clock drifts away."""
        return ramp("clock_offset_s", 0.0, 0.3 * self.clock_offset_s, self.lead_s)

    def onset(self) -> Iterator[Step]:
        """Out of reach; and a pull of each model."""
        if self.cause == "clock":
            yield Step(0.0, "set_condition", self.clock_offset_s, "clock_offset_s")
        else:
            condition = "registry_unresolvable" if self.cause == "name" else "registry_untrusted"
            yield Step(0.0, "set_condition", 1.0, condition)
        yield Step(0.0, "pull_models")

    def ending(self) -> Iterator[Step]:
        """What was set is withdrawn."""
        yield from ()
