"""The load of late, as far as looking ahead needs it: what arrived, and how long answers were."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any

from twin.policy.vocabulary import AttemptEnded, Observation, RequestSpec

REMEMBERED = 2000
"""Of the newest arrivals and answers: the load of late."""
LEAST_ARRIVALS = 20
"""Fewer say nothing of a load."""


class RecentLoad:
    """What arrived of late, and how long answers were."""

    def __init__(self) -> None:
        self.arrivals: deque[tuple[float, RequestSpec]] = deque(maxlen=REMEMBERED)
        self.answers: deque[tuple[int, int]] = deque(maxlen=REMEMBERED)  # prompt tokens, answer tokens

    def arrived(self, now: float, request: RequestSpec) -> None:
        """A request came."""
        self.arrivals.append((now, request))

    def observed(self, observation: Observation) -> None:
        """An attempt ended well: so long are prompts and answers."""
        if isinstance(observation, AttemptEnded) and observation.outcome == "succeeded" and observation.tokens:
            self.answers.append((observation.prompt_eval_count, observation.tokens))

    def workload(self) -> dict[str, Any] | None:
        """As a scenario's; None where too little has come."""
        if len(self.arrivals) < LEAST_ARRIVALS or len(self.answers) < LEAST_ARRIVALS:
            return None
        over_s = self.arrivals[-1][0] - self.arrivals[0][0]
        if over_s <= 0.0:
            return None
        requests = [request for _, request in self.arrivals]
        counts: dict[str, int] = {}
        for request in requests:
            counts[request.model] = counts.get(request.model, 0) + 1
        prompts = [float(prompt or 1) for prompt, _ in self.answers]
        answers = [float(tokens) for _, tokens in self.answers]
        deadline_s = sum(it.deadline_s - it.arrival_s for it in requests) / len(requests)
        return {
            "arrivals": _arrivals([at_s for at_s, _ in self.arrivals]),
            "models": {name: count / len(requests) for name, count in counts.items()},
            "prompt_tokens": _lengths(prompts),
            "output_tokens": _lengths(answers),
            "streaming": sum(it.stream for it in requests) / len(requests),
            "deadline_s": max(1.0, min(deadline_s, 86_400.0)),
            "warmup_s": 0.0,
            "duration_s": 60.0,  # the question says how long
        }


BURSTY_CV = 1.2
"""Of the gaps between arrivals: below it they are taken for independent."""


def _arrivals(times_s: list[float]) -> dict[str, Any]:
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(times_s)]
    mean_s = sum(gaps_s) / len(gaps_s)
    cv = (sum((gap_s - mean_s) ** 2 for gap_s in gaps_s) / len(gaps_s)) ** 0.5 / mean_s
    rate_rps = round(1.0 / mean_s, 4)
    if cv < BURSTY_CV:
        return {"kind": "poisson", "rate_rps": rate_rps}
    return {"kind": "bursty", "rate_rps": rate_rps, "cv": round(cv, 2)}


def _lengths(values: list[float]) -> dict[str, Any]:
    mean = sum(values) / len(values)
    deviation = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    return {"kind": "lognormal", "mean": round(mean, 2), "cv": round(max(0.05, deviation / mean), 3)}
