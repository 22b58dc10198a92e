"""A node that loads more than it works."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, ForeignClients, Step


class ReloadThrash(Fault):
    """Foreign clients ask for the cluster's model with another num_ctx (each change of hands is a reload), or for more
    models of their own than fit (each load evicts another)."""

    about = About(
        kind="reload_thrash",
        identifier="F15",
        what="requests that differ in num_ctx, or in models that do not fit beside each other, take turns",
        symptom="load_duration far above 0 on most requests; the time to the first token is that of a load, or of several",
        precursor="only while it lasts: several num_ctx of one model, more in use than fits, loads again and again",
        source="ollama/ollama issues 8903, 12783, 10948, 6148",
        ended_by_restart=False,
        live="by: context: clients that ask the node's own port with another num_ctx",
    )
    kind: Literal["reload_thrash"]
    by: Annotated[Literal["context", "models"], Field(description="What differs.")] = "context"
    clients: Annotated[int, Field(ge=1, le=10_000, description="How many.")] = 2
    think_s: Annotated[float, Field(gt=0, description="Mean, from an answer to the next request.")] = 4.0
    context_tokens: Annotated[
        int, Field(ge=1, description="num_ctx that they ask for, where that differs; other than the cluster's.")
    ] = 16384

    def onset(self) -> Iterator[Step]:
        """They come."""
        if self.by == "context":
            clients = ForeignClients(self.clients, 50, 50, self.think_s, context_tokens=self.context_tokens)
        else:
            clients = ForeignClients(self.clients, 50, 50, self.think_s, own_models="too_many")
        yield Step(0.0, "foreign_clients", foreign=clients)

    def ending(self) -> Iterator[Step]:
        """They go."""
        yield from ()
