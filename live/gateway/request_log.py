"""What the gateway knows of a request when it has ended: what the tables `requests` and `attempts` need."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from live.gateway.dialect import Timings
from twin.policy.vocabulary import RequestId

RequestOutcome: TypeAlias = Literal["succeeded", "failed", "deadline", "rejected", "cancelled"]


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """An attempt that failed: a row of the table `attempts`. Times are on the run's clock; nan did not come."""

    request_id: RequestId
    attempt: int
    node: str
    started_s: float
    first_token_s: float
    end_s: float
    error: str
    tokens: int
    detail: str  # for a person to read; not in the table

    def row(self) -> tuple[object, ...]:
        """In the order of the schema."""
        return (
            self.request_id,
            self.attempt,
            self.node,
            self.started_s,
            self.first_token_s,
            self.end_s,
            self.error,
            self.tokens,
        )


@dataclass(slots=True)
class RequestLog:
    """One request, once it has ended. Times are on the run's clock; nan did not come."""

    request_id: RequestId
    header_id: str  # X-Request-Id, the client's or made here
    model: str
    stream: bool
    prompt_tokens: int  # estimated
    arrival_s: float
    deadline_s: float
    admitted: bool = False
    outcome: RequestOutcome = "rejected"
    error: str = ""  # of the last attempt, or why it was shed
    nodes: list[str] = field(default_factory=list)  # one for each attempt
    failed_attempts: list[FailedAttempt] = field(default_factory=list)
    dispatched_s: float = math.nan  # of the first attempt
    first_token_s: float = math.nan  # to the client; where it does not stream, to the gateway
    end_s: float = math.nan
    tokens_received: int = 0
    timings: Timings = field(default_factory=Timings)  # of the last attempt

    @property
    def attempts(self) -> int:
        """How many nodes were asked."""
        return len(self.nodes)

    @property
    def node(self) -> str:
        """Of the last attempt; empty before the first."""
        return self.nodes[-1] if self.nodes else ""

    def row(self, output_tokens: int = 0) -> tuple[object, ...]:
        """In the order of the table `requests`; `output_tokens` is what the workload wanted."""
        return (
            self.request_id,
            self.model,
            self.arrival_s,
            self.deadline_s,
            self.stream,
            self.prompt_tokens,
            output_tokens,
            self.admitted,
            self.outcome,
            self.error,
            self.node,
            self.attempts,
            self.dispatched_s,
            self.first_token_s,
            self.end_s,
            self.tokens_received,
            self.timings.load_duration_s,
            self.timings.prompt_eval_duration_s,
            self.timings.eval_duration_s,
            self.timings.total_duration_s,
            self.timings.prompt_eval_count,
            None,
        )
