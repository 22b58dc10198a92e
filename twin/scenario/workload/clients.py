"""How clients behave: who waits for an answer before asking again, who comes back, who loses patience."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from twin.scenario.closed import Closed
from twin.scenario.durations import ConstantDuration, Duration


class ClosedLoopArrivals(Closed):
    """A fixed number of clients. Each sends its next request a think time after its last one ended, in whatever way;
    the first one a think time after the start."""

    kind: Literal["closed_loop"]
    clients: Annotated[int, Field(ge=1, le=100_000)]
    think_time: Duration


class Sessions(Closed):
    """Conversations of several turns. A turn's prompt is what was said so far, and its own new tokens
    (`workload.prompt_tokens`); it comes a think time after the answer to the last one. With open arrivals, these are
    the beginnings of conversations; in a closed loop each client has one after another. A turn that got no answer is
    not part of the history, and the conversation goes on. A history that would no longer fit into the context is
    dropped."""

    mean_turns: Annotated[float, Field(ge=1, description="Turns of a conversation: geometric with this mean.")]
    max_turns: Annotated[int, Field(ge=1, le=1000)] = 100
    think_time: Duration


RetriedOutcome = Literal["cancelled", "rejected", "failed", "deadline"]


class Patience(Closed):
    """What clients do when it takes long: they go away, and perhaps try again."""

    first_token: Annotated[
        Duration | None,
        Field(description="Longest wait for the first token (without streaming: for the answer); null: for ever."),
    ] = None
    end: Annotated[Duration | None, Field(description="Longest wait for the end, also in mid-stream.")] = None
    retries: Annotated[int, Field(ge=0, le=20, description="How often a client tries again.")] = 0
    retry_delay: Annotated[Duration, Field(description="From the end of one try to the next.")] = ConstantDuration(
        kind="constant", mean_s=1.0
    )
    retry_on: Annotated[
        tuple[RetriedOutcome, ...], Field(min_length=1, description="After which outcomes a client tries again.")
    ] = ("cancelled",)

    @model_validator(mode="after")
    def _some_impatience(self) -> Patience:
        if self.first_token is None and self.end is None and not self.retries:
            raise ValueError("give first_token, end or retries; without any of them nobody is impatient")
        return self
