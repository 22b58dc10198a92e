"""Which remedy is worth its cost: expected benefit = probability x harm avoided - cost x probability of being wrong.

All in requests. `probability` is that the node has (or will have) what it is taken to have, and that the remedy helps; the
harm avoided is what would be lost if nothing were done, less what is lost until the remedy is done. Doing nothing is worth
nothing. Ties go by name, so that the choice is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from twin.policy.parameters import HealerParameters
from twin.policy.rates import Rates
from twin.policy.remedies.base import Case, Remedy

LOOK_S: Final = 10.0
"""Assumption: until it is seen that a remedy did not help, and the next can be tried."""

EFFORT: Final = 0.01
"""Requests that any action is taken to cost, so that of two that are worth the same to a request the one less likely
to be in vain is chosen."""


@dataclass(frozen=True, slots=True)
class Option:
    """A remedy that is possible, weighed. `value`, `cost` and `avoided` are requests."""

    remedy: Remedy
    model: str
    success: float  # probability that it helps, if the ailment is what it is taken for
    value: float
    cost: float
    avoided: float
    takes_s: float
    outcomes: float  # seen so far, behind `success`

    def __str__(self) -> str:
        """As an alternative in a reason."""
        return f"{self.name} {self.value:+.2f}"

    @property
    def name(self) -> str:
        """The remedy's."""
        return self.remedy.name

    @property
    def basis(self) -> str:
        """What the probability rests on."""
        if self.outcomes < 0.5:
            return "assumed"
        return f"{self.outcomes:.0f} outcome{'s' if self.outcomes >= 1.5 else ''} seen"


def weigh(case: Case, remedies: Sequence[Remedy], rates: Rates, parameters: HealerParameters) -> list[Option]:
    """The remedies that are allowed, possible and known to help against the case's ailment, the best first."""
    options: list[Option] = []
    for remedy in remedies:
        if not _would_do(remedy, case, parameters) or not remedy.has_hand(case.node):
            continue
        model = remedy.model(case)
        if model is None:
            continue
        takes_s = remedy.takes_s(case)
        success = rates.mean(remedy, case.ailment, case.node.name, case.tried.get(remedy.name, 0))
        right = case.certainty * success
        avoided = max(0.0, case.harm - (0.0 if case.serves else case.rate_rps * takes_s))
        cost = EFFORT + remedy.cost(case) + (0.0 if case.serves else case.rate_rps * LOOK_S)
        value = right * avoided - cost * (1.0 - right)
        outcomes = rates.outcomes(remedy.name, case.ailment)
        options.append(Option(remedy, model, success, value, cost, avoided, takes_s, outcomes))
    options.sort(key=lambda option: (-option.value, option.name))
    return options


def without_hand(case: Case, remedies: Sequence[Remedy], parameters: HealerParameters) -> str:
    """In words: what might help and nobody can do there; empty: there is nothing of that kind."""
    would = [it for it in remedies if _would_do(it, case, parameters) and not it.has_hand(case.node)]
    kinds = sorted({it.about.action for it in would})
    return f"no hand for {' or '.join(kinds)} on {case.node.name}" if kinds else ""


def _would_do(remedy: Remedy, case: Case, parameters: HealerParameters) -> bool:
    return case.ailment in remedy.about.mends and remedy.allowed(parameters)


def explained(chosen: Option, options: Sequence[Option], handless: str = "") -> str:
    """Why this one: its worth and what that rests on, the others with theirs, and what nobody can do (`without_hand`)."""
    others = [str(option) for option in options if option is not chosen]
    return (
        f"{chosen.name} {chosen.value:+.2f} requests expected ({chosen.success:.0%} to help, {chosen.basis}, "
        f"{chosen.takes_s:.0f} s) against {', '.join([*others, 'nothing 0'])}"
    ) + (f"; {handless}" if handless else "")
