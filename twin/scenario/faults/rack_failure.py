"""All nodes of a rack lose their power at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, field_validator

from twin.scenario.faults.base import About, Fault, LinkChange, Step, Target


class RackFailure(Fault):
    """The machines are off: no connection is closed, nothing answers, no agent restarts them. With the power back they
    boot, and their servers start with nothing loaded."""

    about = About(
        kind="rack_failure",
        identifier="F06",
        what="every node of a rack or a zone loses its power at the same moment",
        symptom="streams fall silent and new connections are not answered, on all its nodes at once; then all are cold",
        precursor="none",
        source="an assumption from data centres in general: nodes that share a supply or a switch fail together",
        ended_by_restart=False,
        live="each node's processes are killed; its Toxiproxy edge refuses, since it cannot stay silent for a dead node",
    )
    kind: Literal["rack_failure"]
    target: Annotated[Target, Field(description="random_rack, random_zone, {rack: NAME} or {zone: NAME}.")] = (
        "random_rack"
    )
    duration_s: Annotated[
        float | None, Field(gt=0, description="When the power is back and the machines have booted; null: never.")
    ] = None

    @field_validator("target")
    @classmethod
    def _nodes_that_share_something(cls, value: Target) -> Target:
        if value in ("random_rack", "random_zone") or (isinstance(value, dict) and "gateway" not in value):
            return value
        raise ValueError(
            "rack_failure strikes a rack or a zone: random_rack, random_zone, {rack: NAME} or {zone: NAME}"
        )

    def onset(self) -> Iterator[Step]:
        """The power is gone: first nothing is heard any more, so that no connection is closed."""
        yield Step(0.0, "cut_network", link=LinkChange(blocked="both"))
        yield Step(0.0, "kill_server")

    def ending(self) -> Iterator[Step]:
        """The machines are up again; what is still sent on an old connection is answered with a reset."""
        yield Step(0.0, "restore_network")
        yield Step(0.0, "start_server")
