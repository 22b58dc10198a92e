"""A node gets another address, and the gateways still have the old one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, LinkChange, NetworkFault, Step


class AddressChange(NetworkFault):
    """The node works on under its new address. After `duration_s` the gateways look its name up again and find it.

    At the old address there is nobody (`unreachable`), or another machine without an Ollama (`refused`).
    """

    about = About(
        kind="address_change",
        identifier="F30",
        what="a node's address changes (DHCP, mDNS, a moved container), and the gateways keep the stale one",
        symptom="streams fall silent or break, the old address is unreachable or refuses; the node itself is well",
        precursor="none",
        source="a report of ollama-herd, 2026-07-31: a stale name was cached; no Ollama issue found",
        ended_by_restart=False,
        live="the node's Toxiproxy edge plays the old address: silent or disabled, then open again",
    )
    kind: Literal["address_change"]
    old_address: Annotated[
        Literal["unreachable", "refused"], Field(description="What answers at the old address: nobody, or a machine.")
    ] = "unreachable"
    duration_s: Annotated[
        float | None, Field(gt=0, description="When the gateways look the name up again; null: never.")
    ] = 30.0

    def onset(self) -> Iterator[Step]:
        """The old address is left."""
        if self.old_address == "refused":
            yield Step(0.0, "refuse_network", link=LinkChange(refuses=True))
        else:
            yield Step(0.0, "cut_network", link=LinkChange(blocked="both"))

    def ending(self) -> Iterator[Step]:
        """The name is looked up again: connections to the old address are given up, new ones find the node."""
        yield Step(0.0, "reset_connections")
        yield Step(0.0, "restore_network")
