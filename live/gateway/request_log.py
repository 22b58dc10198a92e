"""What the gateway knows of a request when it has ended: what the tables `requests` and `attempts` need."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from live.gateway.dialect import NO_TIMINGS, Timings
from twin.policy.vocabulary import RequestId
from twin.record.rows import FIRST_GATEWAY

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


@dataclass(slots=True, init=False)
class RequestLog:
    """One request, once it has ended. Times are on the run's clock; nan did not come."""

    request_id: RequestId
    header_id: str  # X-Request-Id, the client's or made here
    model: str
    stream: bool
    prompt_tokens: int  # estimated
    arrival_s: float
    deadline_s: float
    admitted: bool
    outcome: RequestOutcome
    error: str  # of the last attempt, or why it was shed
    nodes: list[str]  # one for each attempt
    failed_attempts: list[FailedAttempt]
    dispatched_s: float  # of the first attempt
    first_token_s: float  # to the client; where it does not stream, to the gateway
    end_s: float
    tokens_received: int
    timings: Timings  # of the last attempt

    def __init__(
        self,
        request_id: RequestId,
        header_id: str,
        model: str,
        stream: bool,
        prompt_tokens: int,
        arrival_s: float,
        deadline_s: float,
    ) -> None:
        self.request_id = request_id
        self.header_id = header_id
        self.model = model
        self.stream = stream
        self.prompt_tokens = prompt_tokens
        self.arrival_s = arrival_s
        self.deadline_s = deadline_s
        self.admitted = False
        self.outcome = "rejected"
        self.error = ""
        self.nodes = []
        self.failed_attempts = []
        self.dispatched_s = math.nan
        self.first_token_s = math.nan
        self.end_s = math.nan
        self.tokens_received = 0
        self.timings = NO_TIMINGS

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
            None,  # whether the answer is right
            FIRST_GATEWAY,
            0,  # of which session it is a turn, and whether it is a client's further try, is not known here
            None,
        )
