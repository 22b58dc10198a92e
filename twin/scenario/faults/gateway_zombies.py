"""The gateway loses sight of attempts whose client went away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step


class GatewayZombies(Fault):
    """Of the requests that are given up this share stays on the gateway's books for ever, and takes a place at its node."""

    about = About(
        kind="gateway_zombies",
        identifier="G01",
        what="the gateway does not notice that a client went away, and never takes its attempt off the books",
        symptom="its count of a node's requests never falls to none; less and less is sent; requests wait at an idle fleet",
        precursor="only while it lasts: requests in flight at the gateway above those at the node",
        source="notes of ollama-herd, 2026-03-22",
        ended_by_restart=False,
        part="gateway",
    )
    kind: Literal["gateway_zombies"]
    share: Annotated[float, Field(gt=0, le=1, description="Share of the disconnects that go unnoticed.")] = 1.0

    def onset(self) -> Iterator[Step]:
        """From now on ends are forgotten."""
        yield Step(0.0, "set_condition", self.share, "ends_forgotten_share")

    def ending(self) -> Iterator[Step]:
        """From then on ends are noticed; what was forgotten stays forgotten."""
        yield from ()
