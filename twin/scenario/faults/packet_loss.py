"""A share of the packets is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, LinkChange, NetworkFault, Step


class PacketLoss(NetworkFault):
    """TCP sends again what is lost, after a timeout that doubles each time (see `twin/sim/transport.py`)."""

    about = About(
        kind="packet_loss",
        identifier="F30",
        what="a share of the packets to and from a node is lost",
        symptom="light loss: answers that come some tenths of a second late; heavy loss: streams that stall for seconds",
        precursor="none",
        source="RFC 6298 for what TCP makes of it; no Ollama-specific report found",
        ended_by_restart=False,
        twin_only=True,  # Toxiproxy carries bytes, and has no packets to lose
    )
    kind: Literal["packet_loss"]
    loss: Annotated[float, Field(gt=0, lt=1, description="Share that is lost, each way.")] = 0.05

    def onset(self) -> Iterator[Step]:
        """Lose them."""
        yield Step(0.0, "lose_packets", self.loss, link=LinkChange(loss=self.loss))
