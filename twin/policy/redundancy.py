"""How many replicas of which model, where.

A model has as many as the cluster asks for (`default_factor` at least), more where its replicas are busy for long, and one
elsewhere for each that is on a node in danger; never more than `max_factor` for demand. What was lost is loaded elsewhere,
in another rack where there is room; what is surplus and was loaded here is let go when it has been idle for long.
"""

from __future__ import annotations

from typing import Any, Final

from twin.policy.foresight import Foresight
from twin.policy.healer import Healer
from twin.policy.health import ROUTABLE
from twin.policy.views import ClusterView, NodeView, Replica
from twin.policy.vocabulary import NOT_TRIED, ActionResult, Command, ModelSpec

COUNTED: Final = ROUTABLE | {"suspect"}
"""A suspect node's replicas count as there: the suspicion is settled in seconds, a load takes longer."""

LOAD_COOLDOWN_S: Final = 30.0
"""After a load that failed, before the same one is tried again; twice as long each time."""

LOAD_DOUBLINGS: Final = 6
"""That is half an hour then."""

LEASE_COOLDOWN_S: Final = 30.0
"""After an unload that was refused for want of the lease, before it is ordered again."""

ADVISED_COOLDOWN_S: Final = 600.0
"""After a load that was only advised, before it is advised again."""


class Factor:
    """How many replicas of a model demand asks for beyond those that the cluster asks for, and since when it does."""

    __slots__ = ("busy", "busy_since_s", "extra", "idle", "idle_since_s", "reason")

    def __init__(self) -> None:
        self.extra = 0
        self.busy = False
        self.busy_since_s = 0.0
        self.idle = False
        self.idle_since_s = 0.0
        self.reason = ""

    def busy_for(self, now: float, seconds: float) -> None:
        """It has been busy for so long; negative: it is not."""
        self.busy = seconds >= 0.0
        self.busy_since_s = now - seconds

    def idle_for(self, now: float, seconds: float) -> None:
        """Likewise idle."""
        self.idle = seconds >= 0.0
        self.idle_since_s = now - seconds


class Redundancy:
    """Keeps each model's number of replicas."""

    def __init__(self, view: ClusterView, healer: Healer, foresight: Foresight) -> None:
        self.view = view
        self.healer = healer
        self.foresight = foresight
        self.parameters = view.parameters.redundancy
        self.due_s = 0.0
        self.loads: dict[int, Replica] = {}  # running load actions
        self.ordered_s: dict[int, float] = {}
        self.unloads: dict[int, Replica] = {}
        self.factors: dict[str, Factor] = {}
        self.ours: set[tuple[str, str]] = set()  # node and model: what was loaded here
        self.not_before_s: dict[tuple[str, str], float] = {}

    def wanted(self, model: ModelSpec) -> int:
        """How many replicas it is to have."""
        if not model.replicas:
            return 0
        base = self._base(model)
        factor = self.factors.get(model.name)
        extra = factor.extra if factor is not None else 0
        return max(base, min(base + extra, self.parameters.max_factor))

    def _base(self, model: ModelSpec) -> int:
        return max(model.replicas, self.parameters.default_factor)

    def decide(self, now: float, commands: list[Command]) -> None:
        """Order the loads that are missing, and let go what is surplus."""
        if not self.parameters.enabled or now < self.due_s:
            return
        self.due_s = now + self.parameters.update_interval_s
        for name, model in self.view.models.items():
            if not model.replicas:
                continue
            if self.parameters.scaling:
                self._follow_demand(now, model)
            wanted = self.wanted(model)
            here, cause = self._here(name)
            if here > wanted:
                self._let_go(now, model, here, wanted, commands)
            while here < wanted:
                replica_to_load = self._best(now, name)
                if replica_to_load is None:
                    break
                here += 1
                self._load(now, replica_to_load, f"{name} has {here - 1} of {wanted} replicas{cause}", commands)

    def _load(self, now: float, replica: Replica, why: str, commands: list[Command]) -> None:
        replica.loading = True
        node = replica.node
        rack = f" in {node.spec.rack}" if node.spec.rack else ""
        reason = f"{why}; {node.name}{rack} has room for it"
        timeout_s = self.parameters.load_timeout_s
        benefit = float(replica.model.slots)
        order = self.healer.action(now, "load", node, replica.model.name, reason, timeout_s, benefit)
        self.loads[order.action_id] = replica
        self.ordered_s[order.action_id] = now
        commands.append(order)

    def _here(self, model: str) -> tuple[int, str]:
        """How many replicas of the model count, and in words why more are wanted than one might think."""
        here = 0
        cause = ""
        factor = self.factors.get(model)
        if factor is not None and factor.extra:
            cause = f" ({factor.reason})"
        for node in self.view.nodes.values():
            replica = node.replicas[model]
            there = replica.resident or replica.loading
            if node.health not in COUNTED:
                # Where nothing is failed over, what a node had counts as long as it is being repaired.
                here += not self.healer.parameters.failover and (
                    there or model in self.view.placement.get(node.name, ())
                )
            elif there and self._will_go(node):
                if node.name in self.foresight.endangered:
                    cause = f", not counting {node.name} ({self.foresight.endangered[node.name][1]})"
            else:
                here += there
        return here, cause

    def _will_go(self, node: NodeView) -> bool:
        """A node that still serves, but is to be repaired or in danger: what it has is needed elsewhere before."""
        if node.name in self.foresight.endangered:
            return True
        work = self.healer.open.get(node.name)
        if work is None or self.healer.advises:
            return False
        return work.incident.state == "open" or work.trouble == "without_gpu"

    def _best(self, now: float, model: str) -> Replica | None:
        """Where to load it: in a rack that has none of it, where the most room is."""
        racks: set[str] = set()
        if self.parameters.spread_racks:
            for node in self.view.nodes.values():
                replica = node.replicas[model]
                if (replica.resident or replica.loading) and node.health in COUNTED:
                    racks.add(node.spec.rack)
        best: NodeView | None = None
        best_rank = (False, 0.0)
        for node in self.view.nodes.values():
            replica = node.replicas[model]
            if replica.resident or replica.loading or not replica.stored or node.health not in ROUTABLE:
                continue
            if "load" not in node.hands or node.would_lose(replica):
                continue
            if node.name in self.healer.open and node.health != "proving":
                continue
            if node.name in self.foresight.endangered:
                continue
            free_gib = node.free_gib()
            if free_gib < replica.model.memory_gib or now < self.not_before_s.get((node.name, model), 0.0):
                continue
            rank = (node.spec.rack not in racks, free_gib)
            if best is None or rank > best_rank:
                best, best_rank = node, rank
        return best.replicas[model] if best is not None else None

    # -- demand ---------------------------------------------------------------------------------------------------

    def _follow_demand(self, now: float, model: ModelSpec) -> None:
        """Move the factor within its bounds."""
        factor = self.factors.get(model.name)
        if factor is None:
            factor = self.factors[model.name] = Factor()
        in_flight = serving = 0
        for replica in self.view.serving_replicas(model.name):
            serving += 1
            in_flight += replica.in_flight
        if not serving:
            factor.busy = factor.idle = False
            return  # an outage is no demand
        share = in_flight / (serving * model.slots)
        waiting = self.view.pools[model.name].waiting if self.view.by_model else None
        if share < self.parameters.busy_share and not waiting:
            factor.busy = False
        elif not factor.busy:
            factor.busy_for(now, 0.0)
        elif now - factor.busy_since_s >= self.parameters.scale_up_after_s:
            factor.busy_since_s = now
            if self.wanted(model) < self.parameters.max_factor and serving >= self.wanted(model):
                factor.extra += 1
                factor.reason = (
                    f"its {serving} replicas were busier than {self.parameters.busy_share:.0%} "
                    f"for {self.parameters.scale_up_after_s:g} s"
                )
        if share > self.parameters.idle_share:
            factor.idle = False
        elif not factor.idle:
            factor.idle_for(now, 0.0)
        elif factor.extra and now - factor.idle_since_s >= self.parameters.scale_down_after_s:
            factor.idle_since_s = now
            factor.extra -= 1

    def _let_go(self, now: float, model: ModelSpec, here: int, wanted: int, commands: list[Command]) -> None:
        """Unload a surplus replica that was loaded here, after the model has been idle for long; one at a time."""
        factor = self.factors.get(model.name)
        if factor is None or not factor.idle:
            return
        idle_s = now - factor.idle_since_s
        under_repair = self.healer.detection.under_repair
        if idle_s < self.parameters.scale_down_after_s or len(under_repair) >= self.healer.parameters.concurrent_max:
            return
        at_work = any(work.incident.state != "given_up" for work in self.healer.open.values())
        if self.foresight.endangered or at_work or not self.healer.parameters.reallocation:
            return
        for node in self.view.nodes.values():
            replica = node.replicas[model.name]
            idle = replica.resident and not replica.loading and not self.view.indexed(replica).in_flight
            if (node.name, model.name) not in self.ours or not idle or node.health != "serving" or node.held:
                continue
            if node.name in under_repair or now < self.not_before_s.get((node.name, model.name), 0.0):
                continue
            if "unload" not in node.hands:
                continue
            reason = (
                f"{model.name} has {here} replicas where {wanted} are wanted, and was idle for {idle_s:.0f} s; "
                f"{node.name}'s was loaded for a need that is over"
            )
            timeout_s = self.healer.parameters.action_timeout_s
            order = self.healer.action(now, "unload", node, model.name, reason, timeout_s, 0.0)
            self.unloads[order.action_id] = replica
            under_repair.add(node.name)
            commands.append(order)
            factor.idle_since_s = now
            return

    def renew(self, now: float, replica: Replica, why: str, commands: list[Command]) -> None:
        """Let a replica go whose runner is worn, where that costs nobody anything; what is missing then is loaded anew."""
        node, model, healer = replica.node, replica.model, self.healer
        under_repair = healer.detection.under_repair
        may = self.parameters.enabled and healer.parameters.enabled and healer.parameters.reallocation
        if not may or not {"load", "unload"} <= node.hands or len(under_repair) >= healer.parameters.concurrent_max:
            return
        idle = replica.resident and not replica.loading and not self.view.indexed(replica).in_flight
        if not idle or node.health != "serving" or node.held or node.name in under_repair or node.name in healer.open:
            return
        others = sum(other.node is not node for other in self.view.serving_replicas(model.name))
        fewest = max(1, healer.parameters.replicas_min, model.replicas - 1)
        if not model.replicas or others < fewest or now < self.not_before_s.get((node.name, model.name), 0.0):
            return
        reason = f"{why}; it is idle, and {others} others serve {model.name} while it is loaded anew"
        order = healer.action(now, "unload", node, model.name, reason, healer.parameters.action_timeout_s, 0.0)
        self.unloads[order.action_id] = replica
        under_repair.add(node.name)
        commands.append(order)

    # -- results --------------------------------------------------------------------------------------------------

    def result(self, now: float, result: ActionResult) -> bool:
        """The result of an action; whether it was one of these."""
        replica = self.unloads.pop(result.action_id, None)
        if replica is not None:
            self.healer.detection.under_repair.discard(replica.node.name)
            key = (replica.node.name, replica.model.name)
            if result.status == "done":
                replica.resident = False
                replica.taken = 0
                self.ours.discard(key)
                self.view.replace(replica.node, now)
            else:
                pause_s = LEASE_COOLDOWN_S if result.status == "no_lease" else ADVISED_COOLDOWN_S
                self.not_before_s[key] = now + pause_s
            return True
        replica = self.loads.pop(result.action_id, None)
        if replica is None:
            return False  # a healer's, or of a policy before this one
        ordered_s = self.ordered_s.pop(result.action_id, now)
        replica.loading = False
        key = (replica.node.name, replica.model.name)
        if result.status == "done":
            self.view.loaded(replica, now)
            replica.load_with(replica.lasting_context, self.view.parameters, matched=replica.matched)
            self.ours.add(key)
            self.healer.tracker.took("load", now - ordered_s)
            self.healer.detection.load_worked(replica)
        elif result.status in NOT_TRIED or result.status == "advised":
            self.not_before_s[key] = now + ADVISED_COOLDOWN_S
        else:
            self.healer.detection.load_failed(now, replica, result, now - ordered_s)
            in_vain = min(max(replica.loads_failed - 1, 0), LOAD_DOUBLINGS)
            self.not_before_s[key] = now + LOAD_COOLDOWN_S * 2.0**in_vain
        self.view.replace(replica.node, now)
        return True

    def snapshot(self, now: float) -> dict[str, Any]:
        """What must outlive this object, as plain data."""
        return {
            "factors": {
                name: [
                    it.extra,
                    it.reason,
                    now - it.busy_since_s if it.busy else -1.0,
                    now - it.idle_since_s if it.idle else -1.0,
                ]
                for name, it in self.factors.items()
            },
            "not_before": [[*key, until_s - now] for key, until_s in sorted(self.not_before_s.items())],
            "ours": [list(key) for key in sorted(self.ours)],
        }

    def restore(self, now: float, known: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        for name, (extra, reason, busy_s, idle_s) in known["factors"].items():
            factor = self.factors.setdefault(name, Factor())
            factor.extra, factor.reason = int(extra), str(reason)
            factor.busy_for(now, float(busy_s))
            factor.idle_for(now, float(idle_s))
        for node, model, left_s in known["not_before"]:
            self.not_before_s[(str(node), str(model))] = now + float(left_s)
        for node, model in known["ours"]:
            self.ours.add((str(node), str(model)))
