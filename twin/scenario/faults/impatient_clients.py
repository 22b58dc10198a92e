"""Loads that are aborted before they end, again and again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, ForeignClients, Step


class ImpatientClients(Fault):
    """Foreign clients ask for a model of their own, hang up before it is loaded, which aborts the load, and ask again. The
    one loader is theirs: the cluster's own loads wait between theirs."""

    about = About(
        kind="impatient_clients",
        identifier="F16",
        what="a client's limit is shorter than the load that its request needs",
        symptom="its load never ends; loads for others wait behind it; what is loaded works",
        precursor="none on the machine; limits to the first byte that are shorter than a load",
        source="ollama/ollama issues 8006, 9625; rsynnot/magic-lists issue 34; lollms_hub pull request 37",
        ended_by_restart=False,
    )
    kind: Literal["impatient_clients"]
    clients: Annotated[int, Field(ge=1, le=10_000, description="How many.")] = 3
    patience_s: Annotated[float, Field(gt=0, description="After which they hang up; shorter than a load.")] = 1.5

    def onset(self) -> Iterator[Step]:
        """They come."""
        clients = ForeignClients(self.clients, 50, 50, think_s=1.0, own_models="one", patience_s=self.patience_s)
        yield Step(0.0, "foreign_clients", foreign=clients)

    def ending(self) -> Iterator[Step]:
        """They go."""
        yield from ()
