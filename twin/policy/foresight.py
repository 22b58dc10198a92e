"""What is done about a failure before it comes.

A forecast is acted upon only where the expected benefit is positive, its failure leaves time for the remedy, and, for what
can cost running work, a budget of actions in vain is not used up: it fills at so many per node and day, and each such action
takes from it the probability that nothing would have come. It is weighed against all failures that are foreseen of its
node and that it would prevent, together: which of them comes is often unclear (a node that gets slower may overheat, or its
runner may hang) when it is clear that one does. What costs nobody anything (a standby, load that is shifted, memory that
nobody needs) is done first, at most once in a while for each node and failure.

A hard precaution is an incident of the healer's, under its caps, floors and cooldowns, and is verified like any repair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from twin.policy.choice import Option, explained, weigh, without_hand
from twin.policy.forecast import Forecast
from twin.policy.healer import BOOKKEEPING_TIMEOUT_S, Healer
from twin.policy.health import ROUTABLE
from twin.policy.rates import Rates
from twin.policy.remedies.base import BROKEN_SHARE
from twin.policy.remedies.redistribute import SHIFTED_S
from twin.policy.tracking import Tracker
from twin.policy.views import ClusterView, NodeView
from twin.policy.vocabulary import NOT_TRIED, Action, ActionResult, Command

DETECTION_S: Final = 5.0
"""Assumption: a failure that comes unforeseen is found after so long; then it is repaired by a restart and a load."""

SOFT_COOLDOWN_S: Final = 120.0
HARD_COOLDOWN_S: Final = 600.0
"""Between two precautions for one node against one failure."""

STANDBY_S: Final = 600.0
"""How long after the last forecast a standby is kept."""

DAY_S: Final = 86400.0
LOW_LOAD_SHARE: Final = 0.25
"""Of a node's slots in use: low load."""

REASONS_SHOWN: Final = 3


class Precaution:
    """Something that was done, and will be judged by whether the failure comes all the same."""

    __slots__ = ("failure", "kind", "node", "probability", "remedy", "until_s")

    def __init__(self, node: str, failure: str, remedy: str, kind: str, probability: float, until_s: float) -> None:
        self.node = node
        self.failure = failure
        self.remedy = remedy
        self.kind = kind  # of its action
        self.probability = probability
        self.until_s = until_s


class Foresight:
    """Turns forecasts into precautions."""

    def __init__(self, view: ClusterView, healer: Healer, tracker: Tracker) -> None:
        self.view = view
        self.healer = healer
        self.tracker = tracker
        self.parameters = view.parameters.healer
        self.fills_per_s = self.parameters.false_hard_actions_per_node_day * len(view.nodes) / DAY_S
        self.budget_max = self.fills_per_s * DAY_S * self.parameters.false_hard_actions_days_saved
        self.budget = self.budget_max
        self.filled_s = 0.0
        self.not_before_s: dict[tuple[str, str, bool], float] = {}  # node, failure, hard
        self.due_s: dict[tuple[str, str], float] = {}  # when it was first expected to come
        self.waiting: dict[tuple[str, str], str] = {}  # why nothing is done, for those who ask
        self.endangered: dict[str, tuple[float, str]] = {}  # node: until when it needs a standby, and why
        self.precautions: list[Precaution] = []
        self.running: dict[int, tuple[str, str]] = {}  # unloads under way: action to node and model
        self.judged = 0  # incidents that have been looked at

    def decide(self, now: float, forecasts: Sequence[Forecast], commands: list[Command]) -> None:
        """Do what is worth it."""
        self.budget = min(self.budget_max, self.budget + self.fills_per_s * (now - self.filled_s))
        self.filled_s = now
        self._judge(now)
        for name in [name for name, (until_s, _) in self.endangered.items() if until_s <= now]:
            del self.endangered[name]
        if not self.parameters.enabled or not self.parameters.predictive:
            return
        least = self.parameters.probability_min
        foreseen: dict[str, dict[str, float]] = {}
        for forecast in forecasts:
            of_node = foreseen.setdefault(forecast.node, {})
            of_node[forecast.failure] = max(of_node.get(forecast.failure, 0.0), forecast.probability)
        likely = [forecast for forecast in forecasts if _any_of(foreseen[forecast.node].values()) >= least]
        for forecast in sorted(likely, key=lambda it: (-it.probability, it.node, it.failure)):
            node = self.view.nodes.get(forecast.node)
            if node is None or node.held or node.health not in ROUTABLE or node.name in self.healer.open:
                continue
            likeliest = forecast.probability == max(foreseen[forecast.node].values())
            if forecast.probability >= least or likeliest:
                self._consider(now, node, forecast, foreseen[forecast.node], commands)

    def _consider(
        self, now: float, node: NodeView, forecast: Forecast, foreseen: dict[str, float], commands: list[Command]
    ) -> None:
        key = (node.name, forecast.failure)
        due_s = min(self.due_s.get(key, now + forecast.lead_s), now + forecast.lead_s)
        if due_s < now - forecast.horizon_s:  # it was expected long ago, and is another one now
            due_s = now + forecast.lead_s
        self.due_s[key] = due_s
        rate_rps = self.tracker.rate_rps(node)
        outage_s = DETECTION_S + self.tracker.restart_s + self.tracker.load_s
        harm = rate_rps * outage_s + BROKEN_SHARE * node.in_flight
        case = self.healer.case(node, forecast.failure, forecast.probability, harm, {})
        options = weigh(case, self.healer.remedies, self.healer.rates, self.parameters)
        options = [_against_all(option, foreseen, self.healer.rates, node.name) for option in options]
        options.sort(key=lambda option: (-option.value, option.name))
        least = self.parameters.probability_min
        handless = without_hand(case, self.healer.remedies, self.parameters)
        for option in options:
            if option.value <= 0.0:
                break
            hard = option.remedy.about.hard
            probability = _together(option, foreseen) if hard else forecast.probability
            if probability < least:
                continue
            why_not = self._why_not(now, node, forecast, option, probability, due_s)
            if why_not:
                self.waiting[key] = f"{option.name}: {why_not}"
                continue
            self.waiting.pop(key, None)
            reasons = "; ".join(forecast.reasons[:REASONS_SHOWN])
            evidence = (
                f"{forecast.failure} within {forecast.horizon_s:.0f} s with {forecast.probability:.0%}, "
                f"in about {forecast.lead_s:.0f} s" + (f" ({reasons})" if reasons else "")
            )
            if probability > forecast.probability:
                evidence += f"; with what else it would prevent {probability:.0%}"
            prevented = [it for it in foreseen if it in option.remedy.about.mends] if hard else [forecast.failure]
            for failure in prevented:
                self.not_before_s[(node.name, failure, hard)] = now + (HARD_COOLDOWN_S if hard else SOFT_COOLDOWN_S)
            if not self.healer.advises:
                until_s = now + forecast.horizon_s
                kind = option.remedy.about.action
                self.precautions.append(
                    Precaution(node.name, forecast.failure, option.name, kind, probability, until_s)
                )
            if hard:
                self.budget -= 1.0 - probability
                why = explained(option, options, handless)
                self.healer.foresee(now, node, option, case, evidence, why, forecast.horizon_s)
                return
            self._soft(now, node, option, f"{evidence}; {explained(option, options, handless)}", commands)

    def _why_not(
        self, now: float, node: NodeView, forecast: Forecast, option: Option, probability: float, due_s: float
    ) -> str:
        """Why an option that is worth it is not done now; empty: it is."""
        about = option.remedy.about
        if now < self.not_before_s.get((node.name, forecast.failure, about.hard), 0.0):
            return "it has been done a while ago"
        left_s = due_s - now
        if option.takes_s >= forecast.lead_s:
            return f"it takes {option.takes_s:.0f} s, and the failure is expected in {forecast.lead_s:.0f} s"
        if about.hard:
            if not self.parameters.proactive:
                return "acting before a failure is switched off"
            if self.tracker.burning:
                return self.tracker.burning
            if len(self.healer.detection.under_repair) >= self.parameters.concurrent_max:
                return "enough is being repaired"
            if self.budget < 1.0 - probability:
                return "the budget of actions in vain is used up"
            need_s = self.parameters.drain_timeout_s + 2.0 * option.takes_s
            if about.patient and left_s > need_s and not self._quiet(node):
                return "it can wait for a time of low load"
        elif option.name == "free_memory" and len(self.healer.detection.under_repair) >= self.parameters.concurrent_max:
            return "enough is being repaired"
        return ""

    def _quiet(self, node: NodeView) -> bool:
        slots = sum(replica.model.slots for replica in node.replicas.values() if replica.resident)
        return node.in_flight <= LOW_LOAD_SHARE * slots

    def _soft(self, now: float, node: NodeView, option: Option, reason: str, commands: list[Command]) -> None:
        if option.name == "failover":
            self.endangered[node.name] = (now + STANDBY_S, reason)  # the redundancy part orders the loads
            return
        timeout_s = BOOKKEEPING_TIMEOUT_S if option.model == "" else self.parameters.action_timeout_s
        kind = option.remedy.about.action
        order: Action = self.healer.action(now, kind, node, option.model, reason, timeout_s, option.value)
        commands.append(order)
        if self.healer.advises:
            return
        if kind == "shift":
            self.view.set_back(node, now, SHIFTED_S)
            self.view.replace(node, now)
        else:
            self.running[order.action_id] = (node.name, option.model)
            self.healer.detection.under_repair.add(node.name)

    def result(self, now: float, result: ActionResult) -> bool:
        """The result of an action; whether it was one of these."""
        if result.status in NOT_TRIED:  # then what follows says nothing of it
            self.precautions = [it for it in self.precautions if it.node != result.node or it.kind != result.kind]
        if result.action_id not in self.running:
            return False
        name, model = self.running.pop(result.action_id)
        self.healer.detection.under_repair.discard(name)
        if result.status == "done":
            node = self.view.nodes[name]
            node.replicas[model].resident = False
            self.view.replace(node, now)
        return True

    def _judge(self, now: float) -> None:
        """What came of precautions: a failure all the same, or nothing (which might have come to nothing anyway)."""
        for incident in self.healer.opened_from(self.judged):
            if incident.diagnosis.startswith("foreseen_"):
                continue
            for precaution in [it for it in self.precautions if it.node == incident.node]:
                self.precautions.remove(precaution)
                if self.parameters.learning:
                    self.healer.rates.note(precaution.remedy, precaution.failure, precaution.node, 0.0, 1.0)
        self.judged = self.healer.opened
        for precaution in [it for it in self.precautions if it.until_s <= now]:
            self.precautions.remove(precaution)
            if self.parameters.learning:
                success = precaution.probability
                self.healer.rates.note(precaution.remedy, precaution.failure, precaution.node, success, 0.0)

    def snapshot(self, now: float) -> dict[str, Any]:
        """What must outlive this object, as plain data."""
        return {
            "budget": self.budget,
            "filled_s_ago": now - self.filled_s,
            "not_before": [[*key, until_s - now] for key, until_s in self.not_before_s.items()],
            "due": [[*key, due_s - now] for key, due_s in self.due_s.items()],
            "endangered": {name: [until_s - now, why] for name, (until_s, why) in self.endangered.items()},
            "precautions": [
                [it.node, it.failure, it.remedy, it.kind, it.probability, it.until_s - now] for it in self.precautions
            ],
        }

    def restore(self, now: float, known: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self.budget = min(self.budget_max, float(known["budget"]))
        self.filled_s = now - float(known["filled_s_ago"])
        for node, failure, hard, left_s in known["not_before"]:
            self.not_before_s[(str(node), str(failure), bool(hard))] = now + float(left_s)
        for node, failure, left_s in known["due"]:
            self.due_s[(str(node), str(failure))] = now + float(left_s)
        for node, (left_s, why) in known["endangered"].items():
            self.endangered[str(node)] = (now + float(left_s), str(why))
        for node, failure, remedy, kind, probability, left_s in known["precautions"]:
            self.precautions.append(
                Precaution(str(node), str(failure), str(remedy), str(kind), float(probability), now + float(left_s))
            )


def _together(option: Option, foreseen: dict[str, float]) -> float:
    """The probability that something comes which the remedy prevents."""
    mends = option.remedy.about.mends
    return _any_of([probability for failure, probability in foreseen.items() if failure in mends])


def _any_of(probabilities: Iterable[float]) -> float:
    """That one of them comes, each by itself."""
    none = 1.0
    for probability in probabilities:
        none *= 1.0 - probability
    return 1.0 - none


def _against_all(option: Option, foreseen: dict[str, float], rates: Rates, node: str) -> Option:
    """A hard option, weighed against all that it would prevent, each as far as it helps there; a soft one as it is."""
    remedy = option.remedy
    together = _together(option, foreseen)
    if not remedy.about.hard or together <= 0.0:
        return option
    mends = remedy.about.mends
    right = _any_of(
        [
            probability * rates.mean(remedy, failure, node)
            for failure, probability in foreseen.items()
            if failure in mends
        ]
    )
    value = right * option.avoided - option.cost * (1.0 - right)
    success = right / together
    return Option(remedy, option.model, success, value, option.cost, option.avoided, option.takes_s, option.outcomes)
