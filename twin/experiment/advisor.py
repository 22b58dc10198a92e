"""Answers a policy's question by simulating what might be done, from the state that the cluster is in."""

from __future__ import annotations

import time
from typing import Any, Final

from twin.experiment.what_if import Candidate, look_ahead
from twin.policy.remedies.rest import REST_S
from twin.policy.vocabulary import Advice, Question
from twin.scenario.schema import Scenario
from twin.sim.present import ClusterNow, present
from twin.sim.simulation import Simulation

NOTHING: Final = "nothing"
HANDS_OFF: Final[dict[str, Any]] = {"healer.mode": "advise", "healer.look_ahead": False}
"""In what is simulated nobody but the candidate disturbs the node; failures are routed around as ever."""


def candidate_of(option: str, node: str) -> Candidate | None:
    """What stands for a remedy in a simulation; None: it cannot be simulated (yet)."""
    if option == NOTHING:
        return Candidate(NOTHING, overrides=HANDS_OFF)
    if option in ("restart", "rejuvenate"):
        return Candidate(option, overrides=HANDS_OFF, orders=({"at_s": 0.0, "order": "restart", "node": node},))
    if option == "rest":
        orders = ({"at_s": 0.0, "order": "drain", "node": node}, {"at_s": REST_S, "order": "return", "node": node})
        return Candidate(option, overrides=HANDS_OFF, orders=orders)
    return None


def answer(
    scenario: Scenario, state: ClusterNow, question: Question, seed: int, limit_s: float | None = None
) -> Advice:
    """Simulate every option that can be; requests lost in each, on the same arrivals.

    `limit_s`: wall-clock time for all of them. What was chosen and doing nothing come first; a further one is left out where
    it would probably be late. Who needs longer for those two answers `late`. None: as long as it takes, so that a simulation
    that asks gives the same answer on every machine.
    """
    began_s = time.perf_counter()
    lost: dict[str, float] = {}
    detail = ""
    for option in dict.fromkeys([*question.options[:1], NOTHING, *question.options]):
        candidate = candidate_of(option, question.node) if option in question.options else None
        if candidate is None:
            continue
        took_s = time.perf_counter() - began_s
        if limit_s is not None and len(lost) > 1 and took_s + took_s / len(lost) > limit_s:
            detail = f"{len(lost)} of {len(question.options)} were simulated in {limit_s:.2f} s"
            break
        (outcome,) = look_ahead(scenario, state, [candidate], question.horizon_s, seed)
        late = outcome.figures["requests_lost"] + outcome.figures["requests_rejected"]
        lost[option] = float(late)
    if limit_s is not None and time.perf_counter() - began_s > limit_s:
        return Advice(question.question_id, question.node, "late", {}, f"it took longer than {limit_s:g} s")
    return Advice(question.question_id, question.node, "done", lost, detail)


def advise(simulation: Simulation, question: Question) -> Advice:
    """The simulated world's answer: its own present state, another seed than its own for what is to come."""
    seed = simulation.seed * 1000 + question.question_id
    return answer(simulation.scenario, present(simulation), question, seed)
