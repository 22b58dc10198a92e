"""The load: when requests arrive, how long they are, what they ask for, and how clients behave. One file a kind."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from twin.scenario.closed import Closed
from twin.scenario.workload.arrivals import (
    BurstyArrivals,
    ConstantArrivals,
    DiurnalArrivals,
    MarkovModulatedArrivals,
    PoissonArrivals,
)
from twin.scenario.workload.clients import ClosedLoopArrivals, Patience, Sessions
from twin.scenario.workload.lengths import Length, TraceLength
from twin.scenario.workload.trace import TraceArrivals

OpenArrivals: TypeAlias = (
    PoissonArrivals | ConstantArrivals | BurstyArrivals | MarkovModulatedArrivals | DiurnalArrivals
)
Arrivals: TypeAlias = Annotated[OpenArrivals | ClosedLoopArrivals | TraceArrivals, Field(discriminator="kind")]
__all__ = ["Arrivals", "Length", "OpenArrivals", "Workload"]

Shares: TypeAlias = dict[str, Annotated[float, Field(gt=0)]]


class Workload(Closed):
    """What clients ask, and for how long."""

    arrivals: Arrivals
    prompt_tokens: Length
    output_tokens: Length
    streaming: Annotated[float, Field(ge=0, le=1, description="Share of requests that stream.")] = 0.8
    models: Annotated[
        Shares | None,
        Field(description="Share of each model; absent: equal shares of the models that have replicas."),
    ] = None
    context_tokens: Annotated[
        dict[int, Annotated[float, Field(gt=0)]] | None,
        Field(description="Share of each num_ctx that requests ask for; 0: of those that ask for none."),
    ] = None
    kinds: Annotated[
        dict[Literal["chat", "embed"], Annotated[float, Field(gt=0)]] | None,
        Field(description="Share of chats and of embeddings; absent: chats alone."),
    ] = None
    embed_models: Annotated[
        Shares | None, Field(description="Share of each model among the embeddings; absent: as the chats.")
    ] = None
    sessions: Sessions | None = None
    patience: Patience | None = None
    deadline_s: Annotated[float, Field(gt=0, le=1_000_000, description="A request not ended by then has failed.")] = (
        60.0
    )
    warmup_s: Annotated[float, Field(ge=0, le=31_536_000, description="Load before the measured time.")] = 30.0
    duration_s: Annotated[float, Field(gt=0, le=31_536_000, description="The measured time, after the warm-up.")]

    @model_validator(mode="after")
    def _parts_fit(self) -> Workload:
        traced = isinstance(self.arrivals, TraceArrivals)
        for name in ("prompt_tokens", "output_tokens"):
            length = getattr(self, name)
            if isinstance(length, TraceLength) and length.file is None and not traced:
                raise ValueError(f"{name}: from_trace needs a file, or arrivals of kind trace")
        if traced and self.sessions is not None:
            raise ValueError("sessions: a trace has its own sessions; leave the key out")
        if self.embed_models is not None and "embed" not in (self.kinds or {}):
            raise ValueError("embed_models: kinds has no share of embed")
        for context in self.context_tokens or {}:
            if context < 0:
                raise ValueError(f"context_tokens: {context} is no context length")
        return self

    def with_rate(self, rate_rps: float) -> Any:
        """The arrivals at another mean rate. Raises ValueError where the kind has none."""
        if isinstance(self.arrivals, (ClosedLoopArrivals, TraceArrivals)):
            raise ValueError(f"rate_rps: arrivals of kind {self.arrivals.kind} have no rate; give live.arrivals")
        return self.arrivals.with_rate(rate_rps)
