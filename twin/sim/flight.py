"""A request on its way through a gateway, and what the world knows of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from twin.policy.vocabulary import AttemptError, RequestSpec, Route
from twin.sim.network import Path
from twin.sim.runner import Job

if TYPE_CHECKING:
    from twin.sim.transport import Passage

NAN: Final = math.nan


class Flight:
    """A request on its way: what the world knows of it."""

    __slots__ = (
        "answer",
        "attempt",
        "dispatched_s",
        "ended",
        "error",
        "first_token_s",
        "gateway",
        "job",
        "node",
        "output_tokens",
        "passage",
        "path",
        "reached_s",
        "retry_of",
        "round_trip_s",
        "route",
        "served_s",
        "shared_tokens",
        "spec",
        "started_s",
    )

    def __init__(self, spec: RequestSpec, output_tokens: int) -> None:
        self.spec = spec
        self.output_tokens = output_tokens  # 0: an embedding
        self.shared_tokens = 0  # of the prompt: those that repeat what its session had before
        self.retry_of: int | None = None  # the request that its client tried first
        self.attempt = 0
        self.answer = ""  # of the last attempt, in truth
        self.error: AttemptError = ""  # of the last failed attempt
        self.gateway = ""  # where it was offered
        self.node = ""
        self.path: Path | None = None  # to its node
        self.route: Route | None = None
        self.job: Job | None = None  # None between attempts, and while a cut path swallows the request
        self.dispatched_s = NAN
        self.started_s = NAN  # of this attempt
        self.first_token_s = NAN  # as the client saw it, in whichever attempt
        self.round_trip_s = 0.0
        self.reached_s = NAN  # when its node took it on
        self.served_s = NAN  # when its node was done with it
        self.passage: Passage | None = None  # while the attempt is on a path that carries bytes slowly or loses them
        self.ended = False
