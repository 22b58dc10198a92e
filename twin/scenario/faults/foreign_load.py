"""Foreign clients load a node past the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, ForeignClients, Step


class ForeignLoad(Fault):
    """Clients that ask the node directly, for the first model that the cluster serves, so that more come than it has slots:
    the others wait inside it, where no gateway sees them."""

    about = About(
        kind="foreign_load",
        identifier="F14",
        what="clients bypass the gateway, and requests queue inside the node above OLLAMA_NUM_PARALLEL",
        symptom="no error; the time to the first token grows, and the node looks fine",
        precursor="only while it lasts: the hidden wait, Ollama's total - load - prompt evaluation - evaluation",
        source="ollama/ollama issue 7758",
        ended_by_restart=False,
        live="clients that ask the node's own port, past proxy and gateway",
    )
    kind: Literal["foreign_load"]
    clients: Annotated[int, Field(ge=1, le=10_000, description="How many.")] = 12
    prompt_tokens: Annotated[int, Field(ge=0, description="Of each request.")] = 200
    output_tokens: Annotated[int, Field(ge=1, description="Of each answer.")] = 300
    think_s: Annotated[float, Field(gt=0, description="Mean, from an answer to the next request.")] = 0.5

    def onset(self) -> Iterator[Step]:
        """They come."""
        clients = ForeignClients(self.clients, self.prompt_tokens, self.output_tokens, self.think_s)
        yield Step(0.0, "foreign_clients", foreign=clients)

    def ending(self) -> Iterator[Step]:
        """They go."""
        yield from ()
