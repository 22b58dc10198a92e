"""What the policy knows of the cluster, mutable, and the index that finds the best replica in constant time.

A `Pool` holds the replicas among which a request may choose (one pool for each model, or one for all where the router
does not look at models). It keeps one bit set for each level of busyness, bit `i` standing for node `i`: the least
busy replica is the lowest set bit of the first set that is not empty, whatever the size of the fleet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from twin.policy.fair_queue import FairQueue
from twin.policy.health import ROUTABLE, Health, HealthEvent, after
from twin.policy.parameters import Parameters
from twin.policy.vocabulary import (
    FIT_SHARE,
    NEVER_S,
    ClusterSpec,
    ModelSpec,
    NodeInventory,
    NodeSpec,
    RequestId,
    RequestSpec,
    Route,
)

LEVELS: Final = 64
"""Levels of busyness that are told apart; what is busier shares the last."""

SERVICE_DECAY: Final = 0.1
"""Weight of the newest request in the mean time that a request takes."""

BATCH_SIZES: Final = 16
"""Numbers of concurrent requests whose pace is told apart."""

CONTEXT_PER_PROMPT: Final = 2
"""Assumption: a request needs twice the context that its prompt is estimated to take."""

NOT_KNOWN: Final = -1
"""The num_ctx with which a model is loaded before anything was seen of that."""

OFF_S: Final = 3600.0
"""A deadline parameter of this value is off."""


class Pace:
    """What is normal for one node, and what it does now."""

    __slots__ = ("known", "latency_s", "normal_s", "ratio", "samples")

    def __init__(self) -> None:
        self.known = [0] * (BATCH_SIZES + 1)  # samples behind each entry of `normal_s`
        self.normal_s = [0.0] * (BATCH_SIZES + 1)  # seconds per token, by concurrent requests; 0: not known
        self.ratio = 1.0  # recent seconds per token / normal
        self.samples = 0
        self.latency_s = math.nan  # of liveness probes, smoothed


class NodeView:
    """One node."""

    __slots__ = (
        "bit",
        "doubted_s",
        "hands",
        "health",
        "held",
        "in_flight",
        "index",
        "last_passed_s",
        "loads_nothing",
        "name",
        "pace",
        "penalty",
        "replicas",
        "returning",
        "rising",
        "rising_over_s",
        "rising_since_s",
        "served",
        "spec",
        "start_s",
        "start_s_of_routes",
    )

    def __init__(self, index: int, spec: NodeSpec) -> None:
        self.index = index
        self.bit = 1 << index
        self.spec = spec
        self.name = spec.name
        self.health: Health = "serving"
        self.in_flight = 0
        self.pace = Pace()
        self.penalty = 0  # levels that a slow node is set back
        self.start_s = 0.0  # longest time to a first token of late, loads not counted
        self.start_s_of_routes = 0.0  # the same, when the limits of its routes were set
        self.served = 0  # requests that ended well here
        self.doubted_s = -NEVER_S  # when it last ceased to get traffic
        self.last_passed_s = 0.0  # last terminal record or passed generation probe
        self.hands = spec.hands  # kinds of actions that somebody can do to it, as far as is known
        self.held = False  # set aside by an operator: nobody else may bring it back
        self.loads_nothing = False  # as far as is known: no load is ordered there
        self.returning = False  # an operator returns it: not even a last resort before a generation has passed
        self.rising = 0  # levels that a node which came back is set back, fewer from look to look
        self.rising_since_s = 0.0
        self.rising_over_s = 0.0  # how long that takes
        self.replicas: dict[str, Replica] = {}

    def free_gib(self, for_replica: Replica | None = None) -> float:
        """Memory that one more model may take beside what is loaded or being loaded, as far as is known: Ollama's own
        rule, so that what is ordered here does not push out what is there. Negative: the node keeps, or loads, no more.

        `for_replica`: the one that is to be loaded, where what it displaces anyway is not to count.
        """
        if self.loads_nothing:
            return -1.0
        here = [
            r.model.memory_gib
            for r in self.replicas.values()
            if (r.resident or r.loading) and not (for_replica is not None and for_replica.displaces(r))
        ]
        if not here:
            return self.spec.vram_gib
        if self.spec.max_models and len(here) >= self.spec.max_models:
            return -1.0
        return FIT_SHARE * (self.spec.vram_gib - sum(here))

    def would_lose(self, replica: Replica) -> bool:
        """Whether a model that is loaded or being loaded here has the place of this replica."""
        if not replica.place:
            return False
        return any([replica.displaces(r) and (r.resident or r.loading) for r in self.replicas.values()])


class Replica:
    """A model on a node, loaded or not."""

    __slots__ = (
        "asked_context",
        "breaker_open_until_s",
        "busy_at_s",
        "busy_s",
        "capacity",
        "cold_route",
        "company",
        "context_tokens",
        "failures_in_row",
        "fetched_s",
        "generates",
        "gets_traffic",
        "hot_context",
        "hot_route",
        "in_flight",
        "level",
        "loaded_context",
        "loading",
        "loads_failed",
        "matched",
        "model",
        "node",
        "own_context",
        "place",
        "pool",
        "prompt_tokens",
        "prompt_tokens_beside",
        "refused",
        "resident",
        "stored",
        "taken",
    )

    def __init__(self, node: NodeView, model: ModelSpec, pool: Pool, capacity: int, parameters: Parameters) -> None:
        self.node = node
        self.model = model
        self.pool = pool
        self.capacity = capacity  # requests at once; more wait at the gateway
        self.in_flight = 0
        self.level = -1  # its place in the pool's index; -1: no candidate
        self.gets_traffic = False  # as the pool has it: loaded where that matters, on a node that gets traffic
        self.resident = False
        self.stored = True  # the node has it on its disk, and so can load it
        self.loading = False
        self.place = ""  # on its node, where it shares that with other models; empty: it has one of its own
        self.context_tokens = 0  # num_ctx with which it is loaded here, where that is not as anywhere; 0: it is
        self.matched = False  # because others ask for it with that one, too; else because memory was short
        self.own_context = model.context_tokens  # what a request without a num_ctx means here; 0: not known
        self.loaded_context = NOT_KNOWN  # num_ctx for which it was loaded, or that it was seen with; 0: for none
        self.hot_context = 0  # num_ctx with which a request finds it as it is; 0: without one
        self.asked_context = 0  # num_ctx that the last request here was told; 0: none
        self.failures_in_row = 0
        self.loads_failed = 0  # ordered loads that failed since one worked
        self.refused = False  # its server refused it at once when it was asked last, without trying to load it
        self.fetched_s = -NEVER_S  # when its files were fetched anew
        self.generates = True  # as far as is known: it has not said that it does something else
        self.breaker_open_until_s = -NEVER_S
        self.taken = 0  # requests that its runner has taken, as far as they went through us
        self.busy_s = 0.0  # requests at once, summed up over time until `busy_at_s`
        self.busy_at_s = 0.0
        self.prompt_tokens = 0  # of all requests that were sent there
        self.company = 1.0  # requests at once, itself among them, in the mean over the attempt that ended last
        self.prompt_tokens_beside = 0  # of the requests that came during that attempt
        self.set_limits(parameters)

    def set_limits(self, parameters: Parameters) -> None:
        """Make the routes anew: no limit on silence is shorter than what is usual on this node, with patience."""
        router = parameters.router
        usual_s = router.patience * self.node.start_s
        stall_s = limit(max(router.stall_timeout_s, usual_s))  # the prefill of another request stops the batch
        hot_s = limit(max(router.first_token_deadline_s, usual_s))
        cold_s = limit(max(router.cold_first_token_deadline_s, usual_s))
        self.hot_route = Route("dispatch", self.node.name, hot_s, stall_s, context_tokens=self.context_tokens)
        self.cold_route = Route(
            "dispatch", self.node.name, cold_s, stall_s, loads=True, context_tokens=self.context_tokens
        )

    def joins(self, now: float, prompt_tokens: int) -> None:
        """One more request is there."""
        self.busy_s += self.in_flight * (now - self.busy_at_s)
        self.busy_at_s = now
        self.in_flight += 1
        self.prompt_tokens += prompt_tokens

    def leaves(self, now: float) -> None:
        """One request less."""
        self.busy_s += self.in_flight * (now - self.busy_at_s)
        self.busy_at_s = now
        self.in_flight -= 1

    def displaces(self, other: Replica) -> bool:
        """Whether another replica of its node is let go when this one is loaded."""
        return self.place != "" and self.place == other.place and other is not self

    def load_with(self, context_tokens: int, parameters: Parameters, *, matched: bool = False) -> None:
        """It has been loaded with that context (0: with its own), and is asked with it from now on; `matched`: because
        others ask for it with that."""
        self.matched = matched
        if context_tokens == self.context_tokens:
            return
        self.context_tokens = context_tokens
        if 0 < context_tokens < self.model.context_tokens:
            self.pool.shortened[self.node.bit] = context_tokens
        else:
            self.pool.shortened.pop(self.node.bit, None)
        self.set_limits(parameters)

    def loaded_for(self, context_tokens: int) -> None:
        """It is loaded for a request with that num_ctx (0: with none), or has answered one."""
        self.loaded_context = context_tokens
        self.hot_context = 0 if context_tokens == self.own_context else context_tokens

    def seen_with(self, context_tokens: int) -> None:
        """The node says with how much it is loaded. Where that was for no num_ctx, it is what none means here."""
        if not self.loaded_context and not self.model.context_tokens:
            self.own_context = context_tokens
        self.loaded_for(context_tokens)

    def forget_context(self) -> None:
        """It is not loaded any more; what its node takes for its own may be another one when it is."""
        self.own_context = self.model.context_tokens
        self.loaded_context = NOT_KNOWN
        self.hot_context = 0

    def reloads_for(self, context_tokens: int) -> bool:
        """Whether a request that is told that num_ctx (0: none) may have it loaded anew."""
        loaded = self.loaded_context
        if loaded == NOT_KNOWN:
            return context_tokens > 0
        return (context_tokens or self.own_context) != (loaded or self.own_context)

    @property
    def lasting_context(self) -> int:
        """The num_ctx with which it is loaded again once it was let go: the one that others ask for, too; 0: its own."""
        return self.context_tokens if self.matched else 0


def limit(seconds: float) -> float:
    """A parameter's time limit as a route's: `OFF_S` means none."""
    return NEVER_S if seconds >= OFF_S else seconds


class Waiting:
    """A request that the policy keeps."""

    __slots__ = ("attempt", "avoid", "not_before_s", "request")

    def __init__(self, request: RequestSpec, attempt: int, avoid: int, not_before_s: float) -> None:
        self.request = request
        self.attempt = attempt
        self.avoid = avoid
        self.not_before_s = not_before_s  # when a node to avoid may have it all the same


class Pool:
    """The replicas among which a request may choose, indexed by busyness; and the requests that wait for one of them."""

    __slots__ = (
        "asked_context",
        "cursor",
        "in_turn",
        "last_resort",
        "levels",
        "members",
        "needs_residency",
        "prompt_limits",
        "queue",
        "routable",
        "served_until_s",
        "service_s",
        "shortened",
        "waiting",
    )

    def __init__(self, *, in_turn: bool, needs_residency: bool) -> None:
        self.in_turn = in_turn  # choose in turn, not by busyness
        self.needs_residency = needs_residency
        self.members: list[Replica | None] = []  # by node index
        self.levels = [0] * LEVELS  # bit sets of candidates
        self.last_resort = 0  # bit set of suspect nodes with room
        self.routable = 0  # bit set of nodes that get traffic and have it, busy or not
        self.cursor = 0
        self.asked_context = 0  # num_ctx that its last request was to be told, on whatever node; 0: none
        self.served_until_s = 0.0  # when the last node that gets traffic was lost
        self.shortened: dict[int, int] = {}  # node's bit: the context of its replica, where that is less than its own
        self.prompt_limits: dict[int, int] = {}  # node's bit: the shortest prompt that its runner dies of
        self.service_s = 0.0  # mean time of a request at a node, of late
        self.queue = FairQueue()  # order of waiting; may hold ids that wait no longer
        self.waiting: dict[RequestId, Waiting] = {}

    def place(self, replica: Replica, now: float) -> None:
        """Put a replica where it belongs in the index, after anything about it has changed."""
        node = replica.node
        bit = node.bit
        old = replica.level
        present = replica.resident or not self.needs_residency
        gets_traffic = present and node.health in ROUTABLE
        if gets_traffic is not replica.gets_traffic:
            replica.gets_traffic = gets_traffic
            self.routable ^= bit
            if not self.routable:
                self.served_until_s = now
        has_room = present and replica.in_flight < replica.capacity
        if has_room and gets_traffic and now >= replica.breaker_open_until_s:
            level = 0 if self.in_turn else replica.in_flight + node.penalty + node.rising
            if level >= LEVELS:
                level = LEVELS - 1
        else:
            level = -1
        if level != old:
            if old >= 0:
                self.levels[old] ^= bit
            if level >= 0:
                self.levels[level] |= bit
            replica.level = level
        if has_room and node.health == "suspect" and not node.returning:
            self.last_resort |= bit
        elif self.last_resort & bit:
            self.last_resort ^= bit

    def too_short_for(self, request: RequestSpec) -> int:
        """Bit set of the nodes whose replica has too short a context for a request: its front would be cut off."""
        needs_tokens = request.context_tokens or CONTEXT_PER_PROMPT * request.prompt_tokens
        return sum([bit for bit, tokens in self.shortened.items() if tokens < needs_tokens])

    def deadly_for(self, request: RequestSpec) -> int:
        """Bit set of the nodes whose runner would die of this prompt; empty where no other node has the model."""
        deadly = sum([bit for bit, tokens in self.prompt_limits.items() if request.prompt_tokens >= tokens])
        return deadly if self.routable & ~deadly else 0

    def note_service(self, took_s: float) -> None:
        """A request took this long at a node."""
        self.service_s += (SERVICE_DECAY if self.service_s else 1.0) * (took_s - self.service_s)

    def pick(self, avoid: int) -> Replica | None:
        """The least busy replica with room, not on a node of the bit set `avoid`; ties go round."""
        allowed = ~avoid
        for level in self.levels:
            candidates = level & allowed
            if candidates:
                later = candidates >> self.cursor
                if later:
                    index = self.cursor + (later & -later).bit_length() - 1
                else:
                    index = (candidates & -candidates).bit_length() - 1
                self.cursor = index + 1
                return self.members[index]
        return None

    def pick_last_resort(self, avoid: int) -> Replica | None:
        """A replica on a suspect node, where no node that gets traffic has one."""
        candidates = self.last_resort & ~avoid
        if not candidates or self.routable:
            return None
        return self.members[(candidates & -candidates).bit_length() - 1]


class ClusterView:
    """All nodes, models and pools."""

    def __init__(self, cluster: ClusterSpec, parameters: Parameters) -> None:
        self.parameters = parameters
        self.nodes: dict[str, NodeView] = {s.name: NodeView(i, s) for i, s in enumerate(cluster.nodes)}
        self.models: dict[str, ModelSpec] = {}
        self.placement = cluster.placement
        self.by_model = parameters.router.kind == "loaded_first"
        self.shared = Pool(in_turn=parameters.router.kind == "round_robin", needs_residency=False)
        self.pools: dict[str, Pool] = {}
        self.rising: list[NodeView] = []
        self.distinct_pools: list[Pool] = [] if self.by_model else [self.shared]
        for model in cluster.models:
            self._add(model)
        for node in self.nodes.values():
            stored = cluster.stored.get(node.name)
            for name, replica in node.replicas.items():
                replica.resident = name in cluster.placement.get(node.name, ())
                replica.stored = replica.resident or stored is None or name in stored
            self.replace(node, 0.0)

    def _add(self, model: ModelSpec) -> None:
        """A model, loaded and stored nowhere yet."""
        self.models[model.name] = model
        pool = Pool(in_turn=False, needs_residency=True) if self.by_model else self.shared
        self.pools[model.name] = pool
        if self.by_model:
            self.distinct_pools.append(pool)
        if not pool.members:
            pool.members = [None] * len(self.nodes)
        capacity = model.slots if self.parameters.admission.enabled else 1 << 30
        for node in self.nodes.values():
            replica = Replica(node, model, pool, capacity, self.parameters)
            replica.stored = False
            node.replicas[model.name] = replica
            if pool.members[node.index] is None:
                pool.members[node.index] = replica

    def learn(self, now: float, inventory: NodeInventory) -> None:
        """Take over what a node has on its disk; a model that nobody knew gets no replica before it is asked for."""
        node = self.nodes[inventory.node]
        for name, memory_gib in inventory.stored.items():
            if name not in self.models:
                self._add(ModelSpec(name, memory_gib, 0, inventory.slots))
        places = {name: shared for shared in inventory.shares for name in shared.split(" ")}
        for name, replica in node.replicas.items():
            replica.stored = replica.resident or name in inventory.stored
            replica.place = places.get(name, "")
        self.replace(node, now)

    def loaded(self, replica: Replica, now: float) -> None:
        """A replica is loaded, as is seen now; what had its place is not any more."""
        replica.resident = True
        if replica.place:
            for other in replica.node.replicas.values():
                if other.resident and replica.displaces(other):
                    other.resident = False
                    other.pool.place(self.indexed(other), now)

    def indexed(self, replica: Replica) -> Replica:
        """The replica that stands for this one in the index: itself, or the node's one where models share a pool."""
        member = replica.pool.members[replica.node.index]
        assert member is not None
        return member

    def replace(self, node: NodeView, now: float) -> None:
        """Put all replicas of a node in their place again."""
        for replica in node.replicas.values():
            replica.pool.place(self.indexed(replica), now)

    def happened(self, node: NodeView, event: HealthEvent, now: float) -> bool:
        """Advance a node's health; true where it changed."""
        before = node.health
        health = after(before, event)
        if health == before:
            return False
        node.health = health
        if before in ROUTABLE and health not in ROUTABLE:
            node.doubted_s = now
        if health in ROUTABLE and (before == "down" or node.returning):
            self._rise(node, now)
        if health != "suspect":
            node.returning = False
        self.replace(node, now)
        return True

    def _rise(self, node: NodeView, now: float) -> None:
        """A node came back: it is chosen after all others at first, and little by little as any other."""
        if self.parameters.router.slow_start_s > 0.0:
            self.set_back(node, now, self.parameters.router.slow_start_s)

    def set_back(self, node: NodeView, now: float, over_s: float, hold_s: float = 0.0) -> None:
        """A node is chosen after all others, and after `hold_s` in the course of this time little by little as any other."""
        node.rising = self._most_slots()
        node.rising_since_s = now + hold_s
        node.rising_over_s = over_s
        if node not in self.rising:
            self.rising.append(node)

    def let_rise(self, now: float) -> None:
        """Give the nodes that were set back as much as is due to them by now. To be called every control period."""
        for node in self.rising[:]:
            since_s = now - node.rising_since_s
            left = 1.0 - since_s / node.rising_over_s if node.rising_over_s else float(since_s < 0.0)
            rising = math.ceil(self._most_slots() * min(left, 1.0)) if left > 0.0 else 0
            if rising != node.rising:
                node.rising = rising
                self.replace(node, now)
            if not rising:
                self.rising.remove(node)

    def _most_slots(self) -> int:
        return max((model.slots for model in self.models.values()), default=1)

    def serving_replicas(self, model: str) -> Iterator[Replica]:
        """The loaded replicas of a model on nodes that get traffic."""
        for node in self.nodes.values():
            if node.health in ROUTABLE and node.replicas[model].resident:
                yield node.replicas[model]
