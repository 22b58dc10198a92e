"""Which remedy for a failing node, when; and whether it worked.

The remedy is chosen by its expected benefit among all that are possible (`choice.py`), with success rates that are learnt
from verified outcomes (`rates.py`). It has worked only when an independent generation passes afterwards and the node goes
on working for the hold time. Until then the incident is open, the next remedy waits for a cooldown that doubles each
time, and one that has not helped is less likely to be chosen again: so it escalates.

In the mode `advise` everything is decided and written down as it would be done, and nothing is done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from twin.policy.activity import TELLS_WITHIN_S
from twin.policy.choice import Option, explained, weigh, without_hand
from twin.policy.detection import STILL_SERVING, WITHOUT_GPU, Confirmed, Detection, Diagnosis
from twin.policy.health import ROUTABLE
from twin.policy.incidents import OpenIncident
from twin.policy.rates import Rates
from twin.policy.remedies import all_remedies
from twin.policy.remedies.base import Case, Remedy
from twin.policy.remedies.lower_context import lowered
from twin.policy.remedies.rest import REST_S
from twin.policy.tracking import Tracker
from twin.policy.views import ClusterView, NodeView, Replica
from twin.policy.vocabulary import (
    BOOKKEEPING_ACTIONS,
    NOT_TRIED,
    Action,
    ActionKind,
    ActionResult,
    Advice,
    Command,
    Incident,
    Question,
)

SERVING_SHARE: Final = 0.3
"""Assumption: a node that still serves, but slowly or without being able to load, costs this share of one that is down."""

HARM_HORIZON_S: Final = 600.0
"""Assumption: a failed node that nobody repairs is missed for ten minutes, until a person has seen to it."""

CONFIRMED_CERTAINTY: Final = 0.95
"""Assumption: of failures that two independent signs confirm, so many are what they are taken for."""

RELAPSE_S: Final = 600.0
"""A failure this soon after the last action on the same node is the old trouble: cooldown and attempts go on from there,
and what seemed to have helped had not."""

HOLD_MAX_S: Final = 60.0
"""A node that fails again and again must hold longer each time, up to this: till then it is one incident, not many."""

ABORT_TIMEOUT_S: Final = 5.0
BOOKKEEPING_TIMEOUT_S: Final = 5.0
"""Drain and return change what the policy does, not the node."""

LOADING: Final = frozenset({"load_path_stuck", "load_stalled", "load_failing"})
"""Troubles of nodes that can load nothing, or not all that they should."""

LEFT_ALONE: Final = LOADING | {"without_gpu"}
"""Troubles of nodes that go on serving as they are where nothing is left that might mend them."""

NOT_OF_AN_ORPHAN: Final = LOADING | {"orphan_runner"}
"""Troubles that a runner which outlived its server does not explain, or that are it."""

SETTLED_KEPT: Final = 1000
SETTLED_KEPT_S: Final = 86400.0
"""At most so many incidents that are over are kept, and so long: for those who ask."""

LOAD_BEGINS_S: Final = 1.0
"""From the order to load a model until its runner process can be seen, at most."""

WITHHELD: Final = "not set aside while fewer replicas of a model serve elsewhere than"
"""Of the evidence of an incident whose repair waited for the floor of replicas."""

Item = TypeVar("Item")


def lowered_of(replica: Replica) -> int:
    """The context with which a replica is loaded again where memory is short."""
    return lowered(replica.context_tokens or replica.model.context_tokens)


class Healer:
    """Opens incidents for confirmed failures, orders actions, verifies them, closes incidents."""

    def __init__(
        self, view: ClusterView, detection: Detection, tracker: Tracker, remedies: Sequence[Remedy] | None = None
    ) -> None:
        self.view = view
        self.detection = detection
        self.tracker = tracker
        self.parameters = view.parameters.healer
        self.advises: bool = self.parameters.mode == "advise"
        self.remedies: list[Remedy] = list(remedies) if remedies is not None else all_remedies()
        self.rates = Rates(self.parameters.learning_interval_s)
        self.open: dict[str, OpenIncident] = {}  # by node
        self.incidents: list[Incident] = []  # by number; without those that were handed over as settled
        self.opened = 0  # incidents so far
        self.actions: dict[int, str] = {}  # running actions of incidents: id to node
        self.ordered_s: dict[int, float] = {}  # when those were ordered
        self.look_s = 0.0  # when incidents are looked at next
        self.action_id = 0
        self.question_id = 0
        self.last_action: dict[str, tuple[float, int]] = {}  # by node: when, and the how manieth in a row
        self.helped: dict[str, tuple[str, str, float]] = {}  # by node: remedy, ailment, until when a relapse refutes it
        self.closed: dict[
            str, tuple[float, int]
        ] = {}  # by node: when its last incident closed, the how manieth in a row
        self.ended: dict[
            str, OpenIncident
        ] = {}  # by node: its last incident, where a runner may have outlived a server
        self.slow_since_s: dict[str, float] = {}
        self.to_return: list[NodeView] = []  # drained nodes whose repair is over

    def decide(self, now: float, commands: list[Command]) -> None:
        """Move every incident on, and add what is to be done."""
        if self.rates.kept:
            self.rates.look(now)
        for node in self._taken(self.to_return):
            if node.held:
                continue  # its operator says when
            # A drained node is proved by a generation before it gets traffic.
            self.view.happened(node, "return", now)
            reason = "its repair is over; a generation must pass before it gets traffic"
            commands.append(self.action(now, "return", node, "", reason, BOOKKEEPING_TIMEOUT_S, 0.0))
        self._note_slow_nodes(now)
        for confirmed in self._taken(self.detection.confirmed):
            self._confirmed(now, confirmed, commands)
        for node in self._taken(self.detection.failed_again):
            self._failed_again(now, node)
        for node in self._taken(self.detection.passed):
            self._passed(now, node)
        for node in self._taken(self.detection.loads_again):
            self._loads_again(now, node)
        if now < self.look_s:
            return
        self.look_s = now + self.parameters.period_s
        for name in list(self.open):
            self._step(now, self.view.nodes[name], self.open[name], commands)

    @staticmethod
    def _taken(items: list[Item]) -> list[Item]:
        taken = items[:]
        items.clear()
        return taken

    def _note_slow_nodes(self, now: float) -> None:
        slow = self.detection.slowness.slow
        for name in list(self.slow_since_s):
            if name not in slow:
                del self.slow_since_s[name]
        for name, evidence in slow.items():
            since_s = self.slow_since_s.setdefault(name, now)
            if now - since_s >= self.view.parameters.slowness.patience_s and name not in self.open:
                self.detection.confirmed.append(Confirmed(self.view.nodes[name], "slow", evidence))

    # -- what was seen --------------------------------------------------------------------------------------------

    def _confirmed(self, now: float, confirmed: Confirmed, commands: list[Command]) -> None:
        node = confirmed.node
        if node.held:
            return  # its operator has set it aside, and may be working on it
        self.look_s = now  # news are not kept waiting
        known = self.open.get(node.name)
        if known is not None and self._makes_way(known, confirmed.diagnosis) and known.happened("dropped"):
            self._close(now, node, known)
            known = None
        if known is None and confirmed.diagnosis == "orphan_runner" and self._goes_on(now, node, confirmed.evidence):
            return
        if known is not None:
            self._failed_again(now, node)
            waits = known.incident.state == "open" and known.ailment != "server_down"
            if waits and confirmed.diagnosis == "server_down":
                # No network that a restart would not mend, and no runner without a server: what was waited for is over.
                known.incident.diagnosis = known.ailment = confirmed.diagnosis
                known.incident.evidence += f"; then {confirmed.evidence}"
                known.not_before_s = now
                known.lost_server = True
        else:
            work = self._open(now, node, confirmed.diagnosis, confirmed.evidence)
            self._relapsed(now, node, confirmed.diagnosis)
            if confirmed.diagnosis == "unreachable":
                work.not_before_s = max(work.not_before_s, now + self.parameters.unreachable_grace_s)
            if node.health not in ("down", "drained") and confirmed.diagnosis not in STILL_SERVING | {"crash_loop"}:
                self._holds(now, work)  # a generation has passed since it was confirmed
        if node.health == "down" and node.in_flight:
            reason = f"{confirmed.diagnosis}: {confirmed.evidence}; its {node.in_flight} requests go on elsewhere"
            commands.append(self.action(now, "abort", node, "", reason, ABORT_TIMEOUT_S, float(node.in_flight)))

    def _makes_way(self, known: OpenIncident, diagnosis: Diagnosis) -> bool:
        """Whether an incident ends because a failure of another kind has come: what was to be forestalled, or a node that
        still served, and that nobody could mend, does no more."""
        left_alone = known.incident.state == "given_up" or known.ailment == "crowded"
        return known.foreseen or (left_alone and self._still_serves(known) and diagnosis not in STILL_SERVING)

    def _open(self, now: float, node: NodeView, diagnosis: str, evidence: str) -> OpenIncident:
        incident = Incident(self.opened, node.name, diagnosis, evidence, now)
        self.opened += 1
        self.incidents.append(incident)
        work = OpenIncident(incident, ailment=diagnosis, probability=CONFIRMED_CERTAINTY)
        work.lost_server = diagnosis == "server_down"
        acted_s, in_a_row = self.last_action.get(node.name, (-math.inf, 0))
        if now - acted_s < RELAPSE_S:
            work.earlier_actions = in_a_row
            work.not_before_s = acted_s + self._cooldown_s(work)
        closed_s, work.relapses = self.closed.get(node.name, (-math.inf, 0))
        if now - closed_s >= RELAPSE_S:
            work.relapses = 0
        self.open[node.name] = work
        self.detection.in_incident.add(node.name)
        return work

    def opened_from(self, number: int) -> list[Incident]:
        """The incidents from that number on, in order."""
        place = len(self.incidents)
        while place and self.incidents[place - 1].incident_id >= number:
            place -= 1
        return self.incidents[place:]

    def settled(self, now: float) -> list[Incident]:
        """The incidents that are over for good, all but the last ones. They are not kept any longer."""
        over = [it for it in self.incidents if it.state == "closed" and now - it.closed_s >= RELAPSE_S]
        beyond = len(over) - SETTLED_KEPT
        gone = [it for place, it in enumerate(over) if place < beyond or now - it.closed_s >= SETTLED_KEPT_S]
        numbers = {it.incident_id for it in gone}
        self.incidents = [it for it in self.incidents if it.incident_id not in numbers]
        return gone

    def foresee(
        self, now: float, node: NodeView, option: Option, case: Case, evidence: str, reason: str, within_s: float
    ) -> None:
        """Begin to forestall a failure: as an incident in which nothing has failed so far."""
        work = self._open(now, node, f"foreseen_{case.ailment}", evidence)
        work.ailment = case.ailment
        work.foreseen = True
        work.probability = case.certainty
        work.harm = case.harm
        work.drop_at_s = now + within_s
        work.choice = option
        work.reason = reason

    def _goes_on(self, now: float, node: NodeView, evidence: str) -> bool:
        """Whether the node's last incident was not yet over: a runner outlived its server then. It is opened again."""
        work = self.ended.pop(node.name, None)
        if work is None or now - work.incident.closed_s >= RELAPSE_S:
            return False
        work.incident.closed_s = math.nan
        self.open[node.name] = work
        self.detection.in_incident.add(node.name)
        self._left_behind(now, work, evidence)
        return True

    def _left_behind(self, now: float, work: OpenIncident, evidence: str) -> None:
        """The failure, or a repair of it, left an orphan: that is to be mended next, and healing is judged after it."""
        work.happened("left_behind")
        if work.ailment == "orphan_runner":  # it has been killed, and that seemed to help
            self._relapsed(now, self.view.nodes[work.incident.node], work.ailment)
            work.tried["kill_runner"] = work.tried.get("kill_runner", 0) + 1
        else:
            work.ailment = "orphan_runner"
            work.tried = {}
        work.choice = None
        work.question = 0
        work.not_before_s = now
        work.incident.evidence += f"; then {evidence}"
        self.look_s = now

    def _relapsed(self, now: float, node: NodeView, ailment: str) -> None:
        """The node fails again in the same way: what had seemed to help did not."""
        remedy, earlier, until_s = self.helped.pop(node.name, ("", "", -math.inf))
        if earlier == ailment and now < until_s and self.parameters.learning:
            self.rates.note(remedy, ailment, node.name, -1.0, 1.0)

    def _failed_again(self, now: float, node: NodeView) -> None:
        work = self.open.get(node.name)
        if work is not None and work.happened("failed"):
            if work.ailment == "server_down" and self.detection.watches[node.name].serves_errors:
                self._server_is_back(work)
            else:
                self._did_not_help(now, work)
            work.not_before_s = max(work.not_before_s, now + self._cooldown_s(work))

    def _server_is_back(self, work: OpenIncident) -> None:
        """The server was down and answers again, with errors: that is another trouble, and a restart is tried already."""
        if work.choice is not None and not self.advises:
            work.tried = {work.choice.name: 1}
        work.ailment = "runner_failing"
        work.choice = None
        work.question = 0
        work.incident.evidence += "; then its server answers, and generations fail"

    def _passed(self, now: float, node: NodeView) -> None:
        work = self.open.get(node.name)
        if work is None:
            return
        if work.ailment == "without_gpu":
            return  # that it has its GPU again is for its machine to say
        if self._still_serves(work) and work.incident.state in ("open", "draining", "given_up"):
            return  # a generation from a loaded model says nothing of what is wrong here
        self._holds(now, work)

    @staticmethod
    def _still_serves(work: OpenIncident) -> bool:
        return work.foreseen or work.ailment in STILL_SERVING

    def _holds(self, now: float, work: OpenIncident) -> None:
        if work.happened("passed"):
            work.incident.verified_s = now
            hold_s = self.parameters.hold_s
            work.hold_until_s = now + max(hold_s, min(HOLD_MAX_S, hold_s * 2.0**work.relapses))

    def _works_by_itself(self, now: float, node: NodeView, diagnosis: Diagnosis) -> None:
        """What was wrong with a node that still serves is over, and nothing has been done to it so far."""
        work = self.open.get(node.name)
        if work is not None and work.trouble == diagnosis and node.health in ROUTABLE:
            self._holds(now, work)

    def _loads_again(self, now: float, node: NodeView) -> None:
        """Something has been loaded on the node."""
        node.loads_nothing = False
        work = self.open.get(node.name)
        if work is not None and work.ailment == "load_path_stuck" and work.happened("withheld"):
            # It was set aside to be restarted. A restart is for a loader that stays stuck: another look will tell.
            probes = self.view.parameters.probes
            work.choice = None
            work.question = 0
            work.not_before_s = now + probes.load_path_period_s + probes.load_path_timeout_s
            self._give_back(now, node)
        self._works_by_itself(now, node, "load_path_stuck")
        self._works_by_itself(now, node, "load_stalled")
        if not any(replica.loads_failed for replica in node.replicas.values()):
            self._works_by_itself(now, node, "load_failing")

    def _cooldown_s(self, work: OpenIncident) -> float:
        in_a_row = work.earlier_actions + work.incident.actions
        return self.parameters.cooldown_s * 2.0 ** (in_a_row - 1) if in_a_row else 0.0

    # -- outcomes -------------------------------------------------------------------------------------------------

    def _did_not_help(self, now: float, work: OpenIncident, *, done: bool = True) -> None:
        """The last remedy was done, and what verifies it failed; or it failed itself."""
        choice = work.choice
        work.choice = None
        work.question = 0
        if choice is None or self.advises:
            return
        work.tried[choice.name] = work.tried.get(choice.name, 0) + 1
        if self.parameters.learning:
            self.rates.note(choice.name, work.ailment, work.incident.node, 0.0, 1.0)
        if work.ailment == "load_path_stuck" and choice.name == "restart" and done and not work.foreseen:
            work.ailment = "load_stalled"
            work.tried = {}
            work.incident.evidence += "; a new server process can load nothing either"
        if work.ailment == "orphan_runner" and not work.foreseen:
            work.ailment = work.incident.diagnosis  # that was not all; where it is still there, it is seen again

    def _close(self, now: float, node: NodeView, work: OpenIncident) -> None:
        """The incident has ended, well or because there is nothing more to do about it."""
        work.incident.closed_s = now
        if not work.foreseen:
            self.closed[node.name] = (now, work.relapses + 1)
            self.ended.pop(node.name, None)
            if work.lost_server:
                self.ended[node.name] = work  # an orphan would be of that
        node.loads_nothing = False
        self.detection.slowness.serves_from_processor(now, node, False)
        del self.open[node.name]
        self.detection.in_incident.discard(node.name)
        self.detection.loads_doubted.discard(node.name)

    def _held(self, now: float, node: NodeView, work: OpenIncident) -> None:
        work.happened("held")
        choice = work.choice
        if choice is not None and work.incident.actions and not self.advises and not work.foreseen:
            if self.parameters.learning:
                self.rates.note(choice.name, work.ailment, node.name, 1.0, 0.0)
            self.helped[node.name] = (choice.name, work.ailment, now + RELAPSE_S)
        self._close(now, node, work)
        self.view.happened(node, "held", now)

    # -- what is done ---------------------------------------------------------------------------------------------

    def _step(self, now: float, node: NodeView, work: OpenIncident, commands: list[Command]) -> None:
        if work.trouble not in NOT_OF_AN_ORPHAN and not work.foreseen and not work.no_orphan:
            evidence = self.detection.activity.orphan(now, node)
            if evidence and work.incident.state in ("open", "verifying", "holding"):
                self._left_behind(now, work, evidence)
        self._look_at_gpu(now, node, work)
        state = work.incident.state
        if state == "holding" and now >= work.hold_until_s and node.health in ROUTABLE:
            self._held(now, node, work)
        elif state == "verifying" and now >= work.verify_by_s:
            work.happened("failed")
            self._did_not_help(now, work)
            work.not_before_s = now + self._cooldown_s(work)
        elif state == "acting" and now >= work.rest_until_s:
            work.rest_until_s = math.inf
            self._done(now, node, work)
        elif state in ("open", "draining", "given_up"):
            if work.foreseen and state == "open" and now >= work.drop_at_s:
                work.happened("dropped")
                self._close(now, node, work)
                return
            if work.trouble == "slow" and node.name not in self.detection.slowness.slow:
                self._works_by_itself(now, node, "slow")
            self._works_by_itself(now, node, "crowded")  # where it gets traffic again
            if work.incident.state in ("open", "draining"):
                self._remedy(now, node, work, commands)

    def _look_at_gpu(self, now: float, node: NodeView, work: OpenIncident) -> None:
        """A node that came back without its GPU has not come back: it is chosen after all others until it has it again."""
        activity, slowness = self.detection.activity, self.detection.slowness
        if work.foreseen:
            return
        if activity.without_gpu(node) and work.incident.state in ("verifying", "holding"):
            if work.ailment == "without_gpu":
                self._did_not_help(now, work)
            else:
                if work.choice is not None and not self.advises:
                    work.tried = {work.choice.name: 1}
                work.ailment = "without_gpu"
                work.choice = None
                work.question = 0
                work.incident.evidence += f"; then {WITHOUT_GPU}"
            work.happened("left_behind")
            work.not_before_s = now + self._cooldown_s(work)
        if work.ailment == "without_gpu":
            slowness.serves_from_processor(now, node, not activity.with_gpu(node))
            if activity.with_gpu(node):
                self._works_by_itself(now, node, "without_gpu")

    def case(self, node: NodeView, ailment: str, certainty: float, harm: float, tried: dict[str, int]) -> Case:
        """What the remedies need to know of a node."""
        rate_rps = self.tracker.rate_rps(node)
        return Case(
            self.view,
            node,
            ailment,
            certainty,
            harm,
            rate_rps,
            self.tracker.load_s,
            self.tracker.restart_s,
            tried,
            self.detection.activity.free_gib.get(node.name, math.nan),
        )

    def _remedy(self, now: float, node: NodeView, work: OpenIncident, commands: list[Command]) -> None:
        if not self.parameters.enabled or now < work.not_before_s or node.held:
            return
        if work.incident.actions >= self.parameters.attempts_max:
            work.happened("exhausted")
            return
        if len(self.detection.under_repair) >= self.parameters.concurrent_max:
            return
        if work.trouble == "unreachable" and self._blind():
            return
        if work.ailment == "crowded":
            return  # it serves others: nothing that is done to it helps, and it is asked again, with patience
        if work.ailment == "runner_hung" and self.detection.is_busy(now, node, work.incident.opened_s):
            return  # it is asked again, with patience
        if work.choice is None and not self._choose(node, work):
            return
        choice = work.choice
        assert choice is not None
        about = choice.remedy.about
        if self._still_serves(work) and node.health != "down":
            if not self._asked(now, node, work, commands):
                return
            choice = work.choice
            if choice is None:
                return  # who looked ahead would rather do nothing
            about = choice.remedy.about
            if about.drains and not self._drained(now, node, work, commands):
                return
            if work.trouble == "load_path_stuck" and not self._scheduler_is_stuck(now, node, work):
                return
        elif not self.advises:
            self.view.happened(node, "confirmed", now)  # whatever it does now, it gets nothing while it is repaired
        self._act(now, node, work, choice, commands)

    def _give_up(self, node: NodeView, work: OpenIncident) -> None:
        """Nobody here can mend it. What is loaded goes on serving; probes go on, and tell when it is over."""
        probe = node.replicas.get(self.view.parameters.probes.load_path_model)
        node.loads_nothing = work.ailment == "load_stalled" or (probe is not None and probe.loads_failed > 0)
        work.happened("exhausted")

    def _choose(self, node: NodeView, work: OpenIncident) -> bool:
        if not work.foreseen:
            share = SERVING_SHARE if work.ailment in STILL_SERVING else 1.0
            work.harm = share * self.tracker.rate_rps(node) * HARM_HORIZON_S
        case = self.case(node, work.ailment, work.probability, work.harm, work.tried)
        options = weigh(case, self.remedies, self.rates, self.parameters)
        handless = without_hand(case, self.remedies, self.parameters)
        if not options or options[0].value <= 0.0:
            if handless and handless not in work.incident.evidence:
                work.incident.evidence += f"; {handless}"
            if not options and not handless and work.ailment in LEFT_ALONE:
                self._give_up(node, work)
            return False
        work.choice = options[0]
        work.reason = explained(options[0], options, handless)
        return True

    def _act(self, now: float, node: NodeView, work: OpenIncident, choice: Option, commands: list[Command]) -> None:
        about = choice.remedy.about
        work.incident.actions += 1
        work.happened("acted")
        work.acted_before_s = self.last_action.get(node.name, (-math.inf, 0))[0]
        self.last_action[node.name] = (now, work.earlier_actions + work.incident.actions)
        if about.action in BOOKKEEPING_ACTIONS and not self.advises:
            # It was drained for this; there is nothing more to order.
            work.rest_until_s = now + REST_S
            return
        reason = f"{work.trouble}: {work.incident.evidence}; {work.reason}"
        timeout_s = choice.remedy.timeout_s(choice.takes_s, self.parameters)
        context_tokens = lowered_of(node.replicas[choice.model]) if choice.name == "lower_context" else 0
        order = self.action(
            now, about.action, node, choice.model, reason, timeout_s, choice.value, context_tokens=context_tokens
        )
        commands.append(order)
        self.actions[order.action_id] = node.name
        self.ordered_s[order.action_id] = now
        work.pending_action = order.action_id
        if not self.advises and about.action != "pull":  # a download takes minutes: others are repaired meanwhile
            self.detection.under_repair.add(node.name)

    def _blind(self) -> bool:
        """Most of a fleet is out of reach at once: then it is we who see nothing, and no restart mends that."""
        unreachable = sum(work.trouble == "unreachable" for work in self.open.values())
        return unreachable > len(self.view.nodes) / 2

    def leaves_enough(self, node: NodeView) -> bool:
        """Whether every model that the node serves keeps enough replicas without it."""
        for name, replica in node.replicas.items():
            if replica.resident and replica.model.replicas > 0:
                others = sum(other.node is not node for other in self.view.serving_replicas(name))
                if others < self.parameters.replicas_min:
                    return False
        return True

    def _drained(self, now: float, node: NodeView, work: OpenIncident, commands: list[Command]) -> bool:
        """Set a node that still serves aside first, where its models keep enough replicas without it."""
        if self.advises:
            return True
        if node.health != "drained":
            if not self.leaves_enough(node):
                self._withheld(work)
                return False
            self.view.happened(node, "drain", now)
            work.happened("set_aside")
            what = "left alone for a while" if work.choice is not None and work.choice.name == "rest" else "repaired"
            reason = f"{work.trouble}: {work.incident.evidence}; it is {what} once it is idle: {work.reason}"
            commands.append(self.action(now, "drain", node, "", reason, BOOKKEEPING_TIMEOUT_S, 0.0))
            work.drained_at_s = now
            if work.trouble == "load_path_stuck" and self.detection.activity.is_read(now, node):
                # Its loader is asked once more, while its machine is looked at.
                self.detection.loads_doubted.add(node.name)
                self.detection.watches[node.name].load_path_due_s = now
        elif not self.leaves_enough(node):
            # Others failed while it was drained: it is needed as it is.
            work.happened("withheld")
            self._withheld(work)
            work.not_before_s = now + self.parameters.cooldown_s
            self._give_back(now, node)
            return False
        return node.in_flight == 0 or now - work.drained_at_s >= self.parameters.drain_timeout_s

    def _scheduler_is_stuck(self, now: float, node: NodeView, work: OpenIncident) -> bool:
        """Whether nothing speaks against it, and its machine has been looked at, where it is: a restart costs all that the
        node has loaded, and gives it nothing where the disk is what is silent."""
        activity = self.detection.activity
        if self.advises:
            return True
        if activity.stands_still(node, work.incident.opened_s):
            work.ailment = "load_stalled"
            work.choice = None
            work.incident.evidence += (
                "; a load has begun, and no weights are read: the disk is silent, not the scheduler"
            )
            work.happened("withheld")
            self._give_back(now, node)
            return False
        waits = activity.is_read(now, node) and not activity.was_read(node, work.drained_at_s + LOAD_BEGINS_S)
        return not waits or now - work.drained_at_s >= TELLS_WITHIN_S

    def _withheld(self, work: OpenIncident) -> None:
        if not work.withheld:
            work.withheld = True
            work.incident.evidence += f"; {WITHHELD} {self.parameters.replicas_min}"

    # -- looking ahead --------------------------------------------------------------------------------------------

    def _asked(self, now: float, node: NodeView, work: OpenIncident, commands: list[Command]) -> bool:
        """Have the choice simulated before a node that still serves is disturbed; whether that is over."""
        choice = work.choice
        assert choice is not None
        if not self.parameters.look_ahead or not choice.remedy.about.hard or work.incident.state != "open":
            return True
        if not work.question:
            self.question_id += 1
            work.question = self.question_id
            work.answer_by_s = now + self.parameters.look_ahead_limit_s
            case = self.case(node, work.ailment, work.probability, work.harm, work.tried)
            options = [it.name for it in weigh(case, self.remedies, self.rates, self.parameters) if it.value > 0.0]
            names = tuple(dict.fromkeys([choice.name, *options, "nothing"]))
            horizon_s = self.parameters.look_ahead_horizon_s
            commands.append(Question(work.question, node.name, names, horizon_s, work.answer_by_s))
            return False
        if work.answer_by_s == math.inf:
            return True
        if now >= work.answer_by_s:
            work.answer_by_s = math.inf
            work.reason += "; the look-ahead did not answer in time, so the choice is by rates alone"
            return True
        return False

    def advice(self, now: float, advice: Advice) -> None:
        """What the simulations of a question gave."""
        work = self.open.get(advice.node)
        if work is None or work.question != advice.question_id or work.answer_by_s == math.inf or work.choice is None:
            return
        work.answer_by_s = math.inf
        self.detection.wake_s = now
        if advice.status != "done" or "nothing" not in advice.lost or len(advice.lost) < 2:
            why = advice.detail or advice.status
            work.reason += f"; the look-ahead says nothing ({why}), so the choice is by rates alone"
            return
        # Fewest lost; where two are equal, what was chosen, then doing nothing.
        order = {work.choice.name: 0, "nothing": 1}
        best = min(advice.lost, key=lambda name: (advice.lost[name], order.get(name, 2), name))
        seen = ", ".join(f"{name} {lost:g}" for name, lost in sorted(advice.lost.items()))
        if best == "nothing":
            work.choice = None
            work.question = 0
            work.not_before_s = now + max(self.parameters.cooldown_s, self.parameters.look_ahead_horizon_s / 10.0)
            return
        work.reason += f"; looking ahead, requests lost: {seen}"
        if best != work.choice.name:
            self._choose_by_name(self.view.nodes[advice.node], work, best)

    def _choose_by_name(self, node: NodeView, work: OpenIncident, name: str) -> None:
        case = self.case(node, work.ailment, work.probability, work.harm, work.tried)
        for option in weigh(case, self.remedies, self.rates, self.parameters):
            if option.name == name:
                work.choice = option
                work.reason += f"; hence {name}"

    # -- results --------------------------------------------------------------------------------------------------

    def result(self, now: float, result: ActionResult) -> None:
        """The result of an action of an incident."""
        name = self.actions.pop(result.action_id, None)
        ordered_s = self.ordered_s.pop(result.action_id, now)
        if name is not None:
            self.detection.under_repair.discard(name)
        work = self.open.get(name) if name is not None else None
        if work is None or work.pending_action != result.action_id:
            return
        work.pending_action = None
        node = self.view.nodes[result.node]
        if result.status == "done":
            self.tracker.took(result.kind, now - ordered_s)
            if result.kind == "restart":
                work.lost_server = True
                self.detection.restarted(now, node)
            else:
                model = work.choice.model if work.choice is not None else ""
                self.detection.runners_gone(now, node, model)
                if result.kind == "pull":
                    node.replicas[model].refused = False
                    node.replicas[model].fetched_s = now
                elif result.kind == "load":
                    self.view.loaded(node.replicas[model], now)
                    self.detection.load_worked(node.replicas[model])
                    if work.choice is not None and work.choice.name == "lower_context":
                        context_tokens = lowered_of(node.replicas[model])
                        node.replicas[model].load_with(context_tokens, self.view.parameters)
                        node.replicas[model].loaded_for(context_tokens)
            self._done(now, node, work)
        elif result.status in NOT_TRIED:
            self._was_not_tried(now, node, work)
            if result.status == "no_lease":  # who holds it may be at work on the node already
                work.not_before_s = now + self.parameters.cooldown_s
        else:
            work.happened("action_failed")
            if result.status == "failed" and result.kind == "kill_runner" and work.ailment == "orphan_runner":
                work.no_orphan = True
            self._did_not_help(now, work, done=False)
            work.not_before_s = now + self._cooldown_s(work)
            self._give_back(now, node)
            if work.foreseen and work.happened("dropped"):
                self._close(now, node, work)  # the next forecast may try something else

    def _was_not_tried(self, now: float, node: NodeView, work: OpenIncident) -> None:
        """Nobody there could do it, or not now: that says nothing of the remedy, and the next one may follow at once."""
        work.happened("action_failed")
        work.choice = None
        work.question = 0
        work.incident.actions -= 1
        self.last_action.pop(node.name, None)
        if work.earlier_actions + work.incident.actions:
            self.last_action[node.name] = (work.acted_before_s, work.earlier_actions + work.incident.actions)
        self.look_s = now
        self.detection.wake_s = now
        self._give_back(now, node)
        if work.foreseen and work.happened("dropped"):
            self._close(now, node, work)

    def _done(self, now: float, node: NodeView, work: OpenIncident) -> None:
        """The remedy has been carried out: from now on it must show that it helped."""
        work.happened("action_done")
        work.verify_by_s = now + self.parameters.verify_timeout_s
        self._give_back(now, node)

    def _give_back(self, now: float, node: NodeView) -> None:
        if node.health == "drained":
            self.to_return.append(node)
            self.detection.wake_s = now

    def action(
        self,
        now: float,
        kind: ActionKind,
        node: NodeView,
        model: str,
        reason: str,
        timeout_s: float,
        benefit: float,
        ordered: bool = False,
        context_tokens: int = 0,
    ) -> Action:
        """A new action; `ordered`: by an operator, who is not advised but obeyed."""
        self.action_id += 1
        benefit = round(benefit, 3) if math.isfinite(benefit) else 0.0
        advice = self.advises and not ordered
        if kind == "load":
            context_tokens = context_tokens or self.detection.contexts.to_load_with(node.replicas[model])
            if not advice:
                node.replicas[model].loaded_for(context_tokens)
        return Action(
            self.action_id,
            kind,
            node.name,
            model,
            reason,
            now + timeout_s,
            benefit,
            context_tokens=context_tokens,
            advice=advice,
        )

    def change(self, now: float, reason: str) -> Action:
        """A change of a setting, for the record."""
        self.action_id += 1
        deadline_s = now + BOOKKEEPING_TIMEOUT_S
        return Action(self.action_id, "set", "", "", reason, deadline_s, 0.0, advice=self.advises)

    def snapshot(self, now: float) -> dict[str, Any]:
        """What has been learnt, as plain data."""
        return {
            "rates": self.rates.snapshot(),
            "last_action": {name: [now - it[0], it[1]] for name, it in sorted(self.last_action.items())},
            "closed": {name: [now - it[0], it[1]] for name, it in sorted(self.closed.items())},
            "helped": {name: [it[0], it[1], it[2] - now] for name, it in sorted(self.helped.items())},
            "slow_s_ago": {name: now - since_s for name, since_s in sorted(self.slow_since_s.items())},
        }

    def restore(self, now: float, known: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self.rates.restore(known["rates"])
        here = self.view.nodes
        for name, (ago_s, in_a_row) in known["last_action"].items():
            if name in here:
                self.last_action[name] = (now - float(ago_s), int(in_a_row))
        for name, (ago_s, in_a_row) in known["closed"].items():
            if name in here:
                self.closed[name] = (now - float(ago_s), int(in_a_row))
        for name, (remedy, ailment, left_s) in known["helped"].items():
            if name in here:
                self.helped[name] = (str(remedy), str(ailment), now + float(left_s))
        for name, ago_s in known["slow_s_ago"].items():
            if name in here:
                self.slow_since_s[name] = now - float(ago_s)
