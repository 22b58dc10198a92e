"""Who serves: admission, choice of the replica, waiting, and further attempts under a budget."""

from __future__ import annotations

import heapq
from typing import Final

from twin.policy.health import HOPEFUL, ROUTABLE
from twin.policy.model_names import ModelNames
from twin.policy.parameters import Parameters
from twin.policy.views import NOT_KNOWN, ClusterView, NodeView, Pool, Replica, Waiting, limit
from twin.policy.vocabulary import CANNOT_SAY, NEVER_S, AttemptEnded, RequestId, RequestSpec, Route

RETRIABLE: Final[frozenset[str]] = frozenset(
    {
        "refused",
        "reset",
        "unreachable",
        "server_error",
        "overloaded",
        "error_record",
        "no_terminal_record",
        "first_token_timeout",
        "stall_timeout",
        "aborted",
    }
)
"""Errors after which another node may do better."""

SHED_RETRY_AFTER_S: Final = 2.0
DOWN_RETRY_AFTER_S: Final = 5.0
RETRY_AFTER_MAX_S: Final = 60.0

REAP_PERIOD_S: Final = 5.0
"""Between two looks at attempts that never ended."""

START_DECAY: Final = 0.01
"""A node's longest time to a first token fades over about a hundred requests."""


class Failed:
    """What is remembered of a request between a failed attempt and its next."""

    __slots__ = ("avoid", "error", "had_tokens", "moved", "refused_by")

    def __init__(self, avoid: int, error: str, had_tokens: bool, refused_by: Replica | None, moved: int = 0) -> None:
        self.avoid = avoid
        self.error = error
        self.had_tokens = had_tokens
        self.moved = moved  # of its attempts we broke off ourselves
        self.refused_by = refused_by  # called the request itself wrong, the first to do so


class Open:
    """An attempt that has not ended: since when, where, and what had been there by then."""

    __slots__ = ("began_s", "busy_s", "due_s", "prompt_tokens", "prompt_tokens_before", "replica", "told_context")

    def __init__(self, request: RequestSpec, replica: Replica, now: float, told_context: int) -> None:
        self.due_s = request.deadline_s
        self.told_context = told_context  # the num_ctx that the node is told; 0: none
        self.prompt_tokens = request.prompt_tokens
        self.replica = replica
        self.began_s = now
        self.busy_s = replica.busy_s
        self.prompt_tokens_before = replica.prompt_tokens


class Router:
    """Routes requests over the replicas of a `ClusterView`."""

    def __init__(self, view: ClusterView) -> None:
        self.view = view
        parameters = view.parameters
        self.retry = parameters.retry
        self.queue_max = parameters.admission.queue_max
        self.deadline_aware = parameters.admission.enabled and parameters.admission.deadline_aware
        self.wait_share = parameters.admission.wait_share
        self.outage_patience_s = parameters.admission.outage_patience_s
        self.learns_slots = parameters.admission.learn_slots
        self.allowance_s_per_token = parameters.router.prompt_allowance_s_per_1k_tokens / 1000.0
        self.patience = parameters.router.patience
        # A node whose first tokens come faster than this never needs other limits than the parameters.
        self.fast_start_s = (
            min(parameters.router.stall_timeout_s, parameters.router.first_token_deadline_s) / self.patience
            if self.patience
            else NEVER_S
        )
        self.by_model = parameters.router.kind == "loaded_first"
        self.zombie_grace_s = limit(parameters.router.zombie_grace_s)
        self.normalise_names = parameters.router.normalise_names
        self.names = ModelNames(view.models)
        self.open: dict[RequestId, Open] = {}
        self.reap_due_s = 0.0
        self.reaped = 0
        self.waiting = 0
        self.failed: dict[RequestId, Failed] = {}
        self.refuted: list[Replica] = []  # called a request wrong that another then served; whoever looks empties it
        self.budget_reserve: float = self.retry.budget_reserve
        self.budget_ratio: float = self.retry.budget_ratio
        self.budget = self.budget_reserve
        self.delayed: list[tuple[float, RequestId, Pool]] = []  # heap of waiting retries that are not due yet

    def configure(self, parameters: Parameters) -> None:
        """Take other values of what may change while requests are under way."""
        self.retry = parameters.retry
        self.queue_max = parameters.admission.queue_max
        self.budget_ratio = parameters.retry.budget_ratio
        if self.patience:
            self.fast_start_s = (
                min(parameters.router.stall_timeout_s, parameters.router.first_token_deadline_s) / self.patience
            )

    # -- the hot path ---------------------------------------------------------------------------------------------

    def route(self, now: float, request: RequestSpec, attempt: int) -> Route:
        """Where this attempt goes."""
        pool = self.view.pools.get(request.model)
        if pool is None:
            pool = self._pool_by_other_name(request)
            if pool is None:
                return Route("shed", reason=f"no node serves model {request.model}")
        avoid = pool.too_short_for(request) if pool.shortened else 0
        if pool.prompt_limits:
            avoid |= pool.deadly_for(request)
        if attempt:
            refusal = self._refuse_retry(now, request, attempt)
            if refusal is not None:
                return refusal
            failed = self.failed[request.request_id]
            avoid |= failed.avoid
            if failed.error == "client_error":
                return self._second_opinion(now, pool, request, failed)
        else:
            if self.budget < self.budget_reserve:
                self.budget += self.budget_ratio
            if pool.waiting:
                return self._wait(pool, request, attempt, avoid, now)
        replica = pool.pick(avoid)
        if replica is None:
            return self._route_without_candidate(now, pool, request, attempt, avoid)
        return self._dispatch(now, pool, replica, request)

    def _pool_by_other_name(self, request: RequestSpec) -> Pool | None:
        """The pool of a model that is called by another of its names. The request gets the name by which the model is known:
        with two names for one model there would be two queues and two counts of its requests."""
        if not self.normalise_names or request.model not in self.names:
            return None
        request.model = self.names.of(request.model)
        return self.view.pools[request.model]

    def _dispatch(self, now: float, pool: Pool, replica: Replica, request: RequestSpec) -> Route:
        replica.joins(now, request.prompt_tokens)
        replica.node.in_flight += 1
        pool.place(replica, now)
        too_short = False
        if pool.shortened and pool.too_short_for(request) & replica.node.bit:
            too_short = True
            # Nobody else could take it: it is loaded anew with its own context, before the prompt's front is cut off.
            replica.load_with(0, self.view.parameters)
            replica.loading = True
        own = replica if self.by_model else replica.node.replicas[request.model]
        told = request.sent_context_tokens
        if told == CANNOT_SAY:
            told = 0
        elif own.context_tokens and not request.context_tokens:
            told = own.context_tokens
        own.asked_context = told
        self.open[request.request_id] = Open(request, replica, now, told)
        if too_short:
            return replica.cold_route
        # Another num_ctx than it is loaded with is an order to load it anew.
        anew = told != own.hot_context and own.reloads_for(told)
        if not self.by_model:
            return own.hot_route if own.resident and not anew else own.cold_route
        pool.asked_context = request.sent_context_tokens
        if not replica.resident:
            replica.loading = True
            return replica.cold_route
        if anew:
            return replica.cold_route
        allowance_s = self.allowance_s_per_token * request.prompt_tokens
        route = replica.hot_route
        if allowance_s < 0.5 or route.first_token_deadline_s == NEVER_S:
            return route
        deadline_s = route.first_token_deadline_s + allowance_s
        return Route("dispatch", route.node, deadline_s, route.stall_timeout_s, context_tokens=route.context_tokens)

    def adopt(self, now: float, request: RequestSpec, node: str) -> Route:
        """The route of a request that is at a node already, counted there. Raises `KeyError` for an unknown node."""
        own = self.view.nodes[node].replicas[request.model]
        member = own if self.by_model else self.view.indexed(own)
        return self._dispatch(now, member.pool, member, request)

    def ended(self, now: float, ended: AttemptEnded) -> tuple[Replica, int]:
        """Account for the end of an attempt; the replica that it was at, and the tokens of its prompt (0: not known)."""
        own = self.view.nodes[ended.node].replicas[ended.model]
        member = own if self.by_model else self.view.indexed(own)
        was = self.open.pop(ended.request_id, None)
        prompt_tokens = 0
        if was is not None:  # else it was struck off before
            prompt_tokens = was.prompt_tokens
            answered = ended.outcome == "succeeded" or ended.first_token_s == ended.first_token_s  # not nan
            if answered and (was.told_context != own.hot_context or own.loaded_context == NOT_KNOWN):
                own.loaded_for(was.told_context)
            member.leaves(now)
            member.node.in_flight -= 1
            passed_s = now - was.began_s
            own.company = (member.busy_s - was.busy_s) / passed_s if passed_s > 0.0 else 1.0
            own.prompt_tokens_beside = member.prompt_tokens - was.prompt_tokens_before
        own.taken += 1
        if ended.outcome == "succeeded":
            if own.resident:  # else a load is in it, which not every dialect tells
                self._note_start(own.node, ended)
            own.loading = False
            if not own.resident:
                self.view.loaded(own, now)
            member.pool.note_service(now - ended.started_s)
            if self.failed:
                failed = self.failed.pop(ended.request_id, None)
                if failed is not None and failed.refused_by is not None:
                    self.refuted.append(failed.refused_by)
        elif ended.outcome == "failed":
            own.loading = False
            before = self.failed.get(ended.request_id)
            tokens = ended.tokens > 0 or (before is not None and before.had_tokens)
            avoid = own.node.bit | (before.avoid if before is not None else 0)
            refused_by = before.refused_by if before is not None else None
            if ended.error == "client_error":
                # Twice is enough: the request is wrong.
                avoid, refused_by = (-1, None) if refused_by is not None else (avoid, own)
            moved = (before.moved if before is not None else 0) + (ended.error == "aborted")
            self.failed[ended.request_id] = Failed(avoid, ended.error, tokens, refused_by, moved)
        else:
            if own.loading and ended.first_token_s == ended.first_token_s:  # not nan: a token came, so it is loaded
                self.view.loaded(own, now)
            own.loading = False
            self.failed.pop(ended.request_id, None)
        member.pool.place(member, now)
        return own, prompt_tokens

    def reap(self, now: float) -> None:
        """Strike off attempts whose end should have been told long ago: the gateway lost sight of them, and their places
        would never be free again."""
        if now < self.reap_due_s:
            return
        self.reap_due_s = now + REAP_PERIOD_S
        overdue = [request_id for request_id, it in self.open.items() if it.due_s + self.zombie_grace_s < now]
        for request_id in overdue:
            replica = self.open.pop(request_id).replica
            replica.leaves(now)
            replica.node.in_flight -= 1
            replica.pool.place(replica, now)
            self.failed.pop(request_id, None)
        self.reaped += len(overdue)

    def _note_start(self, node: NodeView, ended: AttemptEnded) -> None:
        """Follow the node's pace: on a slow machine the limits on silence must be longer than on a fast one.

        What was under way when the node was doubted says how long it hung, and nothing of its pace: learnt from, it would
        have the next hang go unnoticed.
        """
        if ended.started_s <= node.doubted_s:
            return
        start_s = ended.first_token_s - ended.started_s - ended.load_duration_s
        longest_s = node.start_s
        if start_s > longest_s:
            longest_s = start_s
        elif start_s > 0.0:
            longest_s -= START_DECAY * (longest_s - start_s)
        node.start_s = longest_s
        if longest_s < self.fast_start_s and not node.start_s_of_routes:
            return
        if not 0.7 * node.start_s_of_routes <= longest_s <= node.start_s_of_routes:
            node.start_s_of_routes = longest_s
            for replica in node.replicas.values():
                replica.set_limits(self.view.parameters)

    # -- further attempts -----------------------------------------------------------------------------------------

    def _refuse_retry(self, now: float, request: RequestSpec, attempt: int) -> Route | None:
        failed = self.failed.get(request.request_id)
        if failed is None:
            return Route("shed", reason="a further attempt of a request that has not failed")
        reason = ""
        if failed.error == "client_error" and failed.refused_by is not None and attempt <= self.retry.attempts_max:
            return None  # costs a millisecond, and no budget: a client that asks nonsense must not use that up
        if failed.error not in RETRIABLE:
            reason = f"{failed.error}: another node would do no better"
        elif (
            attempt > self.retry.attempts_max + failed.moved
        ):  # what we broke off was moved, and did not fail by itself
            reason = f"{failed.error}: all {attempt} attempts failed"
        elif failed.had_tokens and not self.retry.after_first_token:
            reason = f"{failed.error}: part of the answer is with the client"
        elif now >= request.deadline_s:
            reason = "deadline"
        elif failed.error == "overloaded" and attempt < len(self.view.nodes):
            return None  # nothing was begun there, and there are nodes that have not been asked
        elif failed.error != "aborted":  # we broke that attempt ourselves: moving it is no retry of the node's failure
            if self.budget < 1.0:
                reason = f"{failed.error}: the retry budget is spent"
            else:
                self.budget -= 1.0
        if not reason:
            return None
        del self.failed[request.request_id]
        return Route("shed", reason=reason)

    def _second_opinion(self, now: float, pool: Pool, request: RequestSpec, failed: Failed) -> Route:
        """A node calls the request wrong. A damaged model says so too, so one other node that is ready is asked."""
        replica = pool.pick(failed.avoid)
        if replica is None:
            del self.failed[request.request_id]
            return Route("shed", reason="client_error: no other node to ask")
        return self._dispatch(now, pool, replica, request)

    def _route_without_candidate(self, now: float, pool: Pool, request: RequestSpec, attempt: int, avoid: int) -> Route:
        """Nobody with room: a node that loads the model, a suspect one, the node that just failed, or wait."""
        replica = self._pick_to_load(pool, request.model, avoid)
        if replica is None:
            replica = pool.pick_last_resort(avoid)
        if replica is not None:
            return self._dispatch(now, pool, replica, request)
        # Another node may take it at once, the one that failed it only after a while.
        return self._wait(pool, request, attempt, avoid, now + self.retry.delay_s if avoid else now)

    def _pick_to_load(self, pool: Pool, model: str, avoid: int) -> Replica | None:
        """A node to load the model on, where no node that gets traffic has it loaded or is loading it."""
        if not pool.needs_residency or pool.routable:
            return None
        best: Replica | None = None
        best_loses = False
        for replica in pool.members:
            assert replica is not None
            if replica.node.health not in ROUTABLE:
                continue
            if replica.loading:
                return None
            fits = replica.stored and replica.node.free_gib(replica) >= replica.model.memory_gib
            if not fits or replica.in_flight >= replica.capacity or replica.node.bit & avoid:
                continue
            loses = replica.node.would_lose(replica)
            if best is None or (loses, replica.node.in_flight) < (best_loses, best.node.in_flight):
                best, best_loses = replica, loses
        return best

    # -- waiting --------------------------------------------------------------------------------------------------

    def _wait(self, pool: Pool, request: RequestSpec, attempt: int, avoid: int, not_before_s: float) -> Route:
        if not attempt and len(pool.waiting) >= self.queue_max:
            return self._turned_away(Route("shed", retry_after_s=SHED_RETRY_AFTER_S, reason="the queue is full"))
        if not attempt and request.client and pool.queue.full_for(request.client, self.queue_max):
            reason = "its client has as many requests in the queue as one client may have"
            return self._turned_away(Route("shed", retry_after_s=SHED_RETRY_AFTER_S, reason=reason))
        if not attempt and self.deadline_aware:
            hopeless = self._hopeless(pool, request, not_before_s)  # which is now
            if hopeless is not None:
                return self._turned_away(hopeless)
        pool.waiting[request.request_id] = Waiting(request, attempt, avoid, not_before_s)
        self.waiting += 1
        if not_before_s > request.arrival_s and attempt:
            heapq.heappush(self.delayed, (not_before_s, request.request_id, pool))
        if attempt:
            pool.queue.put_first(request.request_id)  # it has waited before
        else:
            pool.queue.append(request.request_id, request.client)
        return Route("wait")

    def _turned_away(self, route: Route) -> Route:
        """Only requests that are admitted pay for retries: what this one has put into the budget is taken out again."""
        self.budget -= self.budget_ratio
        return route

    def _hopeless(self, pool: Pool, request: RequestSpec, now: float) -> Route | None:
        """Turn a request away at once that would only wait in vain."""
        if not pool.routable:
            if now - pool.served_until_s < self.outage_patience_s:
                return None  # a restart takes a moment
            for member in pool.members:
                assert member is not None
                known = member.node.replicas[request.model]
                if member.node.health in HOPEFUL and (known.resident or known.loading or known.stored):
                    return None
            reason = f"every node that has {request.model} is down"
            return Route("shed", retry_after_s=DOWN_RETRY_AFTER_S, reason=reason)
        slots = pool.routable.bit_count() * self.view.models[request.model].slots
        if self.learns_slots:
            slots = sum([each.capacity for each in pool.members if each is not None and each.gets_traffic])
        ahead = len(pool.waiting)
        if request.client:  # the clients take turns
            ahead = min(ahead, pool.queue.ahead_of(request.client))
        wait_s = (ahead + 1) * pool.service_s / slots
        patience_s = self.wait_share * (request.deadline_s - now)  # the rest is for its answer, however long that is
        if wait_s <= patience_s:
            return None
        late_s = wait_s - patience_s
        reason = f"it would wait about {wait_s:.1f} s, too much of the {request.deadline_s - now:.1f} s to its deadline"
        return Route("shed", retry_after_s=min(max(late_s, 1.0), RETRY_AFTER_MAX_S), reason=reason)

    def withdraw(self, request_id: RequestId) -> None:
        """A waiting request needs no route any more."""
        self.failed.pop(request_id, None)
        for pool in self.view.distinct_pools:
            if pool.waiting.pop(request_id, None) is not None:
                self.waiting -= 1

    def next_due_s(self) -> float:
        """When a delayed retry is due."""
        while self.delayed:
            due_s, request_id, pool = self.delayed[0]
            if request_id in pool.waiting:
                return due_s
            heapq.heappop(self.delayed)
        return NEVER_S

    def released(self, now: float) -> list[tuple[RequestId, Route]]:
        """Waiting requests whose turn has come."""
        routes: list[tuple[RequestId, Route]] = []
        while self.delayed and self.delayed[0][0] <= now:
            heapq.heappop(self.delayed)  # from now on it waits as everybody does
        for pool in self.view.distinct_pools:
            if pool.waiting:
                self._release(now, pool, routes)
        return routes

    def _release(self, now: float, pool: Pool, routes: list[tuple[RequestId, Route]]) -> None:
        held: list[RequestId] = []
        while (request_id := pool.queue.pop(pool.waiting)) is not None:
            waiting = pool.waiting[request_id]
            replica = pool.pick(waiting.avoid)
            if replica is None:
                deadly = pool.deadly_for(waiting.request) if pool.prompt_limits else 0
                avoid = waiting.avoid if now < waiting.not_before_s else deadly
                replica = (
                    (pool.pick(avoid) if waiting.avoid != avoid else None)
                    or self._pick_to_load(pool, waiting.request.model, avoid)
                    or pool.pick_last_resort(avoid)
                )
            if replica is None:
                held.append(request_id)
                if not waiting.avoid:
                    break
                continue
            del pool.waiting[request_id]
            self.waiting -= 1
            routes.append((request_id, self._dispatch(now, pool, replica, waiting.request)))
        pool.queue.first.extendleft(reversed(held))
