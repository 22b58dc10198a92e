"""Is a node failing now? Evidence from real requests, and the probe ladder.

Passive evidence makes a node *suspect*: it gets no traffic while another can take it, and probes go out at once. An
independent second sign *confirms* the failure, and says what it is. Busy is not dead: a node whose slots are full is not
asked to generate, and a terminal record is as good as a passed probe.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from twin.policy.activity import CROWDED_MAX_S, Activity
from twin.policy.contexts import Contexts
from twin.policy.health import ROUTABLE
from twin.policy.observer import Observer
from twin.policy.parameters import Parameters
from twin.policy.phi_accrual import PhiAccrual
from twin.policy.slowness import Slowness
from twin.policy.views import ClusterView, NodeView, Replica
from twin.policy.vocabulary import NEVER_S, ActionResult, AttemptEnded, Probe, ProbeKind, ProbeResult, TelemetrySample

NO_ANSWER: Final[frozenset[str]] = frozenset({"unreachable", "first_token_timeout", "stall_timeout"})
SPEAKS_OF_THE_NODE: Final[frozenset[str]] = frozenset(
    {
        "refused",
        "reset",
        "unreachable",
        "server_error",
        "error_record",
        "no_terminal_record",
        "first_token_timeout",
        "stall_timeout",
    }
)
"""Errors of requests that are evidence against the node (a 503 or a 4xx is an answer of a healthy one)."""

NOBODY_LISTENS: Final[frozenset[str]] = frozenset({"refused", "reset"})
"""Errors of a liveness probe that are an answer of the machine: the server is gone. (A proxy on the way hangs up where
the server's port would refuse.)"""

RUNNER_DIED: Final[frozenset[str]] = frozenset({"reset", "server_error", "error_record", "no_terminal_record"})
"""Errors after which the model must be loaded again, if the server still lives."""

Diagnosis: TypeAlias = Literal[
    "server_down",  # the port refuses
    "unreachable",  # nothing answers there
    "runner_hung",  # the server answers, a generation does not come
    "runner_failing",  # the server answers, a generation fails
    "crash_loop",  # generations pass and then fail, again and again
    "load_path_stuck",  # what is loaded works, nothing can be loaded
    "load_stalled",  # likewise, and no new server process mends it: the disk gives no weights
    "load_failing",  # what is loaded works, loads of a model fail
    "without_gpu",  # it serves from its processor, and used to from its GPU
    "crowded",  # it works without a pause, for others that ask it past the gateway
    "orphan_runner",  # a runner that outlived its server holds memory that the node's models need
    "slow",  # it works, much slower than it used to
]
STILL_SERVING: Final[frozenset[Diagnosis]] = frozenset(
    {"load_path_stuck", "load_stalled", "load_failing", "without_gpu", "crowded", "orphan_runner", "slow"}
)
"""Failures of nodes that still serve: they are drained before a repair, and stay in use where no repair is possible."""

BEYOND_REPAIR: Final[frozenset[Diagnosis]] = frozenset({"load_stalled", "crowded"})
"""Failures that nothing here mends: what can be done is to leave the node as it is, and to tell its operator."""

WITHOUT_GPU: Final = "its models lie in main memory, and used to lie in that of its GPU"

RESIDENCY_ANSWER_S: Final = 0.05
"""Time in which a server says what it has loaded, if it says it at all soon (1 ms on real nodes)."""

LOADS_FAILED: Final = 2
"""Ordered loads of a model in a row that fail on one node, from which on that is a failure of the node."""

LOAD_AGAIN_MAX_S: Final = 60.0
"""Between two tries to load a model whose loads fail, at most."""

REFUSED_S: Final = 0.5
"""A generation that fails so soon was refused: no load has begun (2 ms with a damaged file, measured on real nodes; a runner
that starts and finds a format that it does not know takes some tenths of a second)."""

FAST_PROBE_S: Final = 0.25
"""Between two probes of a node that is suspect or down."""

FULL_S: Final = 0.5
"""For so long others are chosen before a node that says that it is full, twice as long each time in a row, ..."""

FULL_MAX_S: Final = 30.0
"""... and no longer than this."""

HELD_BACK_SHARE: Final = 0.75
"""Of the time for which a node is set back whose runner died in an answer: so long it does not rise again."""

WAY_MARGIN: Final = 1.5
"""Assumption: an answer from a node that is far away is late when it takes this many times its usual way."""

CROWDED_TOLD_S: Final = 180.0
"""Assumption: a node that others have taken for three minutes will not be given back in a moment: its operator is told, and
what it has is loaded elsewhere."""

CROWDED_DOUBLINGS: Final = 4
"""So often the time is doubled in which a crowded node may give a token: a queue of long answers takes minutes."""

SET_BACK_S: Final = 600.0
"""Assumption: a node that others have taken is chosen after its peers for this long, less and less."""


class Watch:
    """What detection remembers of one node."""

    __slots__ = (
        "crowded",
        "crowded_asks",
        "crowded_since_s",
        "died_s",
        "evidence",
        "failures_s",
        "full_in_row",
        "generation_due_s",
        "generations_asked",
        "gone_in_a_row",
        "late_token_s",
        "liveness_due_s",
        "liveness_error",
        "liveness_failures",
        "load_again_due_s",
        "load_path_due_s",
        "node",
        "pending",
        "phi",
        "residency_due_s",
        "serves_errors",
        "slow_error",
        "stalled",
        "timeouts_s",
        "way_s",
    )

    def __init__(self, node: NodeView) -> None:
        self.node = node
        self.liveness_due_s = 0.0
        self.residency_due_s = 0.0
        self.generation_due_s = 0.0
        self.generations_asked = 0  # by which the loaded models of a node take their turns
        self.load_path_due_s = 0.0
        self.load_again_due_s = 0.0  # likewise of a model whose loads have failed
        self.liveness_failures = 0
        self.liveness_error = ""
        self.gone_in_a_row = 0  # liveness probes that were answered by nobody listening
        self.stalled = False  # a stream that had its slot fell silent: no other request explains that
        self.serves_errors = False  # its server answered the last generation that failed, with an error
        self.slow_error = False  # the evidence is silence, not an answer
        self.way_s = 0.0  # where its answers come, but late: at most so long are they on their way
        self.crowded = False  # it is silent, and its GPU works: others have taken its slots
        self.crowded_since_s = NEVER_S
        self.crowded_asks = 0  # tokens that it was asked for since, and did not give in time
        self.late_token_s = -NEVER_S  # when one came, later than any request would have waited
        self.evidence = ""
        self.full_in_row = 0  # requests that it turned away since the last that it took
        self.failures_s: list[float] = []  # when its runner died; the time that it was set back does not count
        self.died_s = -NEVER_S  # the last time
        self.pending: dict[ProbeKind, int] = {}  # kind to probe id
        self.timeouts_s: dict[ProbeKind, float] = {}  # of those
        self.phi = PhiAccrual()


class Confirmed:
    """A failure that was confirmed: what it is, and why we think so."""

    __slots__ = ("diagnosis", "evidence", "node")

    def __init__(self, node: NodeView, diagnosis: Diagnosis, evidence: str) -> None:
        self.node = node
        self.diagnosis = diagnosis
        self.evidence = evidence


def _diagnose(watch: Watch, failed_generation: ProbeResult) -> Diagnosis:
    if watch.liveness_failures:
        return "server_down" if watch.liveness_error in NOBODY_LISTENS else "unreachable"
    if failed_generation.error == "refused":
        return "server_down"
    return "runner_hung" if failed_generation.error in NO_ANSWER else "runner_failing"


class Detection:
    """Turns observations into health, and health into probes."""

    def __init__(self, view: ClusterView) -> None:
        self.view = view
        self.probes = view.parameters.probes
        self.breaker = view.parameters.circuit_breaker
        self.healer = view.parameters.healer
        self.patience = view.parameters.router.patience
        self.verify = self.probes.enabled and self.probes.generation
        self.slowness = Slowness(view)
        self.observer = Observer()
        self.activity = Activity()
        self.contexts = Contexts(view)
        self.watches = {name: Watch(node) for name, node in view.nodes.items()}
        self.confirmed: list[Confirmed] = []  # for the healer, which empties it
        self.in_incident: set[str] = set()  # nodes with an open incident; the healer's
        self.passed: list[NodeView] = []  # of those, the ones that a generation passed on
        self.failed_again: list[NodeView] = []  # of those, the ones that failed once more
        self.loads_again: list[NodeView] = []  # of those, the ones that a probe of the load path passed on
        self.loads_doubted: set[str] = set()  # nodes whose loader is looked at once more before a restart; the healer's
        self.under_repair: set[str] = set()  # nodes with a running disruptive action; the healer's
        self.open_breakers: list[Replica] = []
        self.probe_id = 0
        self.wake_s = NEVER_S  # when something should be asked, if before the next period
        self.unwell = 0  # nodes that are not serving

    def configure(self, parameters: Parameters) -> None:
        """Take other values of what may change while nodes are watched."""
        self.probes = parameters.probes
        self.slowness.configure(parameters.slowness)

    # -- passive --------------------------------------------------------------------------------------------------

    def attempt_ended(self, now: float, ended: AttemptEnded, replica: Replica) -> None:
        """Evidence from a real request."""
        node = replica.node
        if ended.outcome == "succeeded":
            replica.failures_in_row = 0
            self.watches[node.name].full_in_row = 0
            if ended.started_s >= node.last_passed_s or node.health in ROUTABLE:
                node.last_passed_s = now
            penalty = node.penalty
            self.slowness.attempt(replica, ended)
            if node.penalty != penalty:
                self.view.replace(node, now)
            if node.health == "suspect" and self._doubted(node) is None:
                self._back(now, node)  # it was busy, no more: the record is as good as a passed probe
            return
        watch = self.watches[node.name]
        if ended.error == "overloaded":
            # It is full, by its own word: healthy, but no place to send the next to. Others may use it past the gateway.
            watch.full_in_row += 1
            self.view.set_back(node, now, 0.0, min(FULL_S * 2.0 ** (watch.full_in_row - 1), FULL_MAX_S))
            self.view.replace(node, now)
        if ended.outcome != "failed" or ended.error not in SPEAKS_OF_THE_NODE:
            return
        replica.failures_in_row += 1
        if ended.error in RUNNER_DIED or ended.error == "refused":
            replica.resident = not self.verify and replica.resident
            self.view.replace(node, now)
        if self.breaker.enabled and replica.failures_in_row >= self.breaker.failure_threshold and not self.verify:
            self._open_breaker(now, self.view.indexed(replica))
        if not self.verify:
            return
        watch.evidence = f"attempt of request {ended.request_id} ended with {ended.error}"
        watch.stalled = watch.stalled or ended.error == "stall_timeout"
        self._suspect(now, node, silent=ended.error in ("first_token_timeout", "stall_timeout", "unreachable"))
        if ended.error in RUNNER_DIED:
            self._count_runner_failure(now, watch, in_answer=ended.tokens > 0)

    def _count_runner_failure(self, now: float, watch: Watch, *, in_answer: bool) -> None:
        """Count deaths for the crash loop.

        A runner that died in the middle of an answer may do so again, and break all answers that it gives by then: for a
        while the others are chosen first. That while does not count, or it would hide the loop. Where nobody had a token
        yet, it may have been a matter of what was asked, and nothing is held against the node.
        """
        # Requests of one batch die together, of one cause: they count once.
        if now - watch.died_s < FAST_PROBE_S:
            return
        watch.died_s = now
        window_s = self.healer.crash_loop_window_s
        watch.failures_s = [at_s for at_s in watch.failures_s if at_s >= now - window_s]
        watch.failures_s.append(now)
        if len(watch.failures_s) >= self.healer.crash_loop_failures:
            count = len(watch.failures_s)
            watch.failures_s.clear()
            self._confirm(
                now, watch.node, "crash_loop", f"the runner failed {count} times within {window_s:g} s of service"
            )
        elif in_answer:
            held_s = HELD_BACK_SHARE * window_s
            self.view.set_back(watch.node, now, window_s - held_s, held_s)
            watch.failures_s = [at_s + window_s for at_s in watch.failures_s]

    def load_failed(self, now: float, replica: Replica, result: ActionResult, took_s: float) -> None:
        """A load that was ordered failed. Once may be chance, so the node is asked at once; twice in a row is a failure."""
        node = replica.node
        if node.health not in ROUTABLE:
            return  # it is known to be unwell
        replica.loads_failed += 1
        replica.refused = result.status == "failed" and took_s <= REFUSED_S
        if not self.verify:
            return
        watch = self.watches[node.name]
        watch.liveness_due_s = watch.load_path_due_s = now
        self.wake_s = now
        if replica.loads_failed >= LOADS_FAILED and node.name not in self.in_incident:
            detail = f" ({result.detail})" if result.detail else ""
            evidence = f"loading {replica.model.name} {result.status} after {took_s:.1f} s{detail}"
            self._confirm(now, node, "load_failing", f"{evidence}, {replica.loads_failed} times in a row")

    def load_worked(self, replica: Replica) -> None:
        """A model was loaded: the loader works, and so do this model's files."""
        replica.loads_failed = 0
        replica.refused = False
        if replica.node.name in self.in_incident:
            self.loads_again.append(replica.node)

    def refuted(self, now: float, replica: Replica) -> None:
        """It called a request wrong that another node then served: its copy of the model is damaged, say."""
        if self.breaker.enabled:
            self._open_breaker(now, self.view.indexed(replica))

    def _open_breaker(self, now: float, member: Replica) -> None:
        if member.breaker_open_until_s > now:
            return
        limit = int(self.breaker.ejected_share_max * len(self.view.nodes))
        open_now = {replica.node.name for replica in self.open_breakers if replica.breaker_open_until_s > now}
        if len(open_now) >= limit:
            return
        member.breaker_open_until_s = now + self.breaker.recovery_timeout_s
        self.open_breakers.append(member)
        member.pool.place(member, now)

    def _suspect(self, now: float, node: NodeView, *, silent: bool) -> None:
        watch = self.watches[node.name]
        watch.slow_error = silent
        if node.name in self.in_incident:
            self.failed_again.append(node)
        if self.view.happened(node, "failed", now):
            watch.liveness_due_s = watch.generation_due_s = now
            self.wake_s = now
            if silent and self.probes.residency:
                # Perhaps the model was let go and has to be loaded: ask that first, it decides how long a token may take.
                watch.residency_due_s = now
                watch.generation_due_s = now + RESIDENCY_ANSWER_S

    def _confirm(self, now: float, node: NodeView, diagnosis: Diagnosis, evidence: str) -> None:
        if diagnosis not in STILL_SERVING:
            self.view.happened(node, "confirmed", now)
        self.confirmed.append(Confirmed(node, diagnosis, evidence))
        self.wake_s = now

    def reopen(self, now: float, node: NodeView, diagnosis: Diagnosis, evidence: str) -> None:
        """A failure that an earlier object of this class had confirmed, and that has not ended."""
        self.confirmed.append(Confirmed(node, diagnosis, evidence))
        self.wake_s = now

    # -- active ---------------------------------------------------------------------------------------------------

    def sampled(self, now: float, sample: TelemetrySample) -> None:
        """What was read of a node's machine: a node that was taken for busy is not, where its GPU does nothing."""
        self.activity.sampled(now, sample)
        watch = self.watches[sample.node]
        if sample.node not in self.in_incident and watch.node.health in ROUTABLE:  # else the healer looks for itself
            evidence = self.activity.orphan(now, watch.node)
            if evidence:
                self._confirm(now, watch.node, "orphan_runner", evidence)
            elif self.activity.without_gpu(watch.node):
                self._confirm(now, watch.node, "without_gpu", WITHOUT_GPU)
        if watch.crowded and not self.activity.crowded(now, watch.node):
            watch.crowded = False
            if watch.node.health == "suspect":
                watch.pending.pop("generation", None)
                watch.generation_due_s = now
                self.wake_s = now

    def answered(self, now: float, result: ProbeResult) -> None:
        """Take in the result of a probe."""
        watch = self.watches[result.node]
        if watch.pending.get(result.kind) != result.probe_id:
            return  # it was asked of a server process that is no more
        del watch.pending[result.kind]
        late_s = result.latency_s - watch.timeouts_s[result.kind]
        if result.error in NO_ANSWER and self.observer.was_late(late_s):
            self._look_again(now, watch, result)
            return
        if result.kind == "liveness":
            self._liveness(now, watch, result)
        elif result.kind == "residency":
            self._residency(now, watch, result)
        elif result.kind == "generation":
            self._generation(now, watch, result)
        else:
            self._load_path(now, watch, result)

    def _look_again(self, now: float, watch: Watch, result: ProbeResult) -> None:
        """We were late ourselves: perhaps the answer was there. It is asked for once more, with more time."""
        if result.kind == "liveness":
            watch.liveness_due_s = now
        elif result.kind == "generation":
            watch.generation_due_s = now
        elif result.kind == "residency":
            watch.residency_due_s = now
        else:
            watch.load_path_due_s = now
        self.wake_s = now

    def _load_path(self, now: float, watch: Watch, result: ProbeResult) -> None:
        node = watch.node
        replica = node.replicas.get(result.model)
        if result.ok:
            if replica is not None:
                self.load_worked(replica)
            return
        if node.health not in ROUTABLE or result.error not in SPEAKS_OF_THE_NODE:
            return
        if replica is not None and result.model != self.probes.load_path_model:
            replica.loads_failed += 1  # as before: that is why it was asked for
            return
        if result.error in NO_ANSWER and self.activity.loading(now, node):
            return  # its loader is at work on another model
        evidence = f"loading {result.model} gave {result.error} after {result.latency_s:.1f} s"
        if result.error in ("first_token_timeout", "stall_timeout"):
            self._confirm(now, node, "load_path_stuck", evidence)
            return
        times = 0
        if replica is not None and result.error == "server_error":
            replica.loads_failed += 1
            times = replica.loads_failed
        if times < LOADS_FAILED:  # chance, or another failure than that of a load: a second sign tells
            watch.evidence = evidence
            self._suspect(now, node, silent=result.error in NO_ANSWER)
        elif node.name not in self.in_incident:
            self._confirm(now, node, "load_failing", f"{evidence}, {times} times in a row")

    def _liveness(self, now: float, watch: Watch, result: ProbeResult) -> None:
        node = watch.node
        if result.ok:
            if node.health == "down" and watch.liveness_error:  # what was asked of it in its silence may be lost
                watch.pending.pop("generation", None)
                watch.residency_due_s = now  # it may have let go what it had, and a token would load it again
                watch.generation_due_s = now + RESIDENCY_ANSWER_S
                self.wake_s = now
            watch.liveness_failures = watch.gone_in_a_row = 0
            watch.liveness_error = ""
            watch.way_s = result.latency_s if result.latency_s > self.probes.timeout_s else 0.0
            if node.health in ROUTABLE:
                watch.phi.heard(now, node.last_passed_s)
            self.slowness.liveness(now, node, result.latency_s)
            if not self.verify and node.health in ("down", "suspect"):
                # Nothing better to go by: the process is up, so the node gets traffic again.
                self._back(now, node)
            return
        gone = result.error in NOBODY_LISTENS
        # Twice in a row: a network that is mended hangs up on what was waiting in it, once.
        news = gone and watch.gone_in_a_row == 1
        watch.gone_in_a_row = watch.gone_in_a_row + 1 if gone else 0
        watch.liveness_failures += 1
        watch.liveness_error = result.error
        if node.health == "down":
            if news:  # what looked unreachable answers, that nobody listens there
                self._confirm(now, node, "server_down", f"GET /api/version failed ({result.error})")
            return
        times = watch.liveness_failures
        few = times < self.probes.failures_to_suspect or (not gone and self._may_be_jitter(now, watch))
        if few and node.health in ROUTABLE:
            watch.liveness_due_s = now + FAST_PROBE_S
            self.wake_s = min(self.wake_s, watch.liveness_due_s)
            return
        if not gone and self.verify and (node.health in ROUTABLE or watch.slow_error):
            # Far away, or gone? Silence is one sign, however often it comes; whether a token comes is another.
            watch.evidence = watch.evidence or f"GET /api/version gave nothing {times} times in a row ({result.error})"
            self.slowness.liveness(now, node, result.latency_s)
            self._suspect(now, node, silent=True)
            return
        evidence = f"GET /api/version failed {times} times in a row ({result.error})"
        if watch.evidence and node.health == "suspect":
            evidence = f"{watch.evidence}; then {evidence}"
        diagnosis: Diagnosis = "server_down" if gone else "unreachable"
        if gone:
            for replica in node.replicas.values():
                replica.resident = replica.loading = False
        self._confirm(now, node, diagnosis, evidence)

    def _may_be_jitter(self, now: float, watch: Watch) -> bool:
        """Whether answers come so irregularly from there that this silence is not yet a sign."""
        threshold = self.probes.phi_threshold
        heard_s = watch.node.last_passed_s
        heard_s = max(heard_s, watch.phi.last_s)
        return threshold > 0.0 and watch.phi.phi(now - heard_s - self.observer.lag_s) < threshold

    def _back(self, now: float, node: NodeView) -> None:
        if node.name in self.under_repair:
            self.view.replace(node, now)
            return  # what works now is about to be taken away
        node.last_passed_s = now
        watch = self.watches[node.name]
        watch.evidence = ""
        watch.crowded_since_s = NEVER_S
        watch.crowded_asks = 0
        watch.stalled = False
        self.view.happened(node, "passed", now)
        self.view.replace(node, now)
        if node.name in self.in_incident:
            self.passed.append(node)
            self.wake_s = now

    def _residency(self, now: float, watch: Watch, result: ProbeResult) -> None:
        node = watch.node
        if not result.ok:
            if node.health in ROUTABLE and result.error in ("unreachable", "first_token_timeout"):
                watch.evidence = f"GET /api/ps gave nothing within {result.latency_s:.1f} s"
                self._suspect(now, node, silent=True)
            elif node.held and result.error in NOBODY_LISTENS:
                for replica in node.replicas.values():
                    replica.resident = False
            return
        for name, replica in node.replicas.items():
            replica.resident = name in result.models
            if not replica.resident:
                replica.taken = 0
        for name, context_tokens in zip(result.models, result.contexts, strict=False):
            if name in node.replicas and context_tokens:
                self.contexts.seen(now, node.replicas[name], context_tokens)
        self.view.replace(node, now)

    def _generation(self, now: float, watch: Watch, result: ProbeResult) -> None:
        node = watch.node
        replica = node.replicas.get(result.model)
        if result.ok and watch.crowded and result.latency_s > self.healer.verify_timeout_s:
            watch.late_token_s = now  # it works, for others: no request of ours would wait so long
            watch.generation_due_s = now + self.probes.generation_period_s
            self._tell_crowded(now, watch, f"a token of {result.model} came after {result.latency_s:.0f} s")
            return
        if result.ok:
            late = replica is not None and result.latency_s > replica.hot_route.first_token_deadline_s
            loaded = replica is not None and not replica.resident
            if replica is not None:
                self.view.loaded(replica, now)
                replica.loading = False
                replica.refused = False
                replica.failures_in_row = 0
                if loaded or replica.loads_failed:
                    self.load_worked(replica)
            if watch.liveness_failures and result.latency_s > self.probes.timeout_s:
                watch.way_s = result.latency_s  # it generates, and is farther away than a probe of its server had time
            watch.liveness_failures = 0
            watch.liveness_error = ""
            if not node.in_flight:
                self.slowness.idle(now, node)
            if (
                late and loaded and not watch.crowded
            ):  # a load, or a long way? Another token tells, now that it is loaded
                watch.generation_due_s = now
                self.wake_s = now
                return
            if late:  # no request would have waited so long: it takes its time, and so do the limits on its silence
                node.start_s = node.start_s_of_routes = max(node.start_s, result.latency_s)
                for other in node.replicas.values():
                    other.set_limits(self.view.parameters)
            if watch.crowded:
                watch.crowded = False
                self.view.set_back(node, now, SET_BACK_S)
            if self._doubted(node) is not None:  # each model has its own runner, and that one has not answered yet
                watch.generation_due_s = now
                self.wake_s = now
                return
            self._back(now, node)
            return
        if result.error == "client_error" and replica is not None:
            self._answers_otherwise(now, watch, replica)
            return
        if replica is not None:
            soon = result.latency_s <= REFUSED_S
            replica.refused = result.error == "server_error" and soon and not replica.resident
        watch.serves_errors = result.error == "server_error"
        if node.health in ("down", "drained"):
            watch.crowded_asks += watch.crowded
            if node.name in self.in_incident:
                self.failed_again.append(node)
            return
        if replica is not None:
            replica.failures_in_row += 1
        if result.error in NO_ANSWER:
            evidence = f"one token of {result.model} was not generated within {result.latency_s:.1f} s"
        else:
            evidence = f"a generation of {result.model} failed ({result.error})"
        if watch.evidence:
            evidence = f"{watch.evidence}; then {evidence}"
        if node.health == "suspect":
            if result.error in RUNNER_DIED:
                self._count_runner_failure(now, watch, in_answer=False)
            elif self._is_crowded(now, watch, result):
                self._tell_crowded(now, watch, evidence)
                return  # busy is not dead: it is asked again, with patience
            self._confirm(now, node, _diagnose(watch, result), evidence)
        else:
            watch.evidence = evidence
            self._suspect(now, node, silent=result.error in NO_ANSWER)

    def _answers_otherwise(self, now: float, watch: Watch, replica: Replica) -> None:
        """The server says that this model generates nothing: it embeds, or its file is damaged. That says nothing against
        the node, and another of its models is asked; where it has no other, that its server answers must do."""
        replica.generates = False
        replica.failures_in_row = 0
        if self._next_loaded(watch.node) is not None:
            watch.generation_due_s = now
            self.wake_s = now
        else:
            self._back(now, watch.node)

    def _is_crowded(self, now: float, watch: Watch, failed: ProbeResult) -> bool:
        """Whether a suspect node gives nothing because of others that it serves, and not for too long."""
        full = failed.error == "overloaded"
        if not full and (watch.stalled or watch.liveness_failures or not self.activity.crowded(now, watch.node)):
            return False
        watch.crowded = True
        watch.crowded_asks += 1
        watch.crowded_since_s = min(watch.crowded_since_s, now)
        return now - max(watch.crowded_since_s, watch.late_token_s) < CROWDED_MAX_S

    def _tell_crowded(self, now: float, watch: Watch, evidence: str) -> None:
        """Who has a node set aside for long learns of it."""
        node = watch.node
        if (
            now - watch.crowded_since_s >= CROWDED_TOLD_S
            and node.health == "suspect"
            and node.name not in self.in_incident
        ):
            self._confirm(now, node, "crowded", f"{evidence}; others have taken it")

    def is_busy(self, now: float, node: NodeView, since_s: float) -> bool:
        """Whether a node that was taken for hung since then works after all, or may: its machine was not looked at yet."""
        watch = self.watches[node.name]
        if watch.stalled or watch.liveness_failures:
            return False
        if self.activity.may_tell(now, node, since_s):
            return True
        if not self.activity.crowded(now, node):
            return False
        watch.crowded = True
        watch.crowded_since_s = min(watch.crowded_since_s, since_s)
        return now - max(watch.crowded_since_s, watch.late_token_s) < CROWDED_MAX_S

    # -- what to ask ----------------------------------------------------------------------------------------------

    def ask(self, now: float, probes: list[Probe]) -> None:
        """Add the probes that are due."""
        if not self.probes.enabled:
            return
        if now >= self.wake_s:
            self.wake_s = NEVER_S
        unwell = 0
        fresh_s = now - self.probes.period_s
        residency = self.probes.residency
        for watch in self.watches.values():
            node = watch.node
            if node.held:  # only what it has loaded is of interest, for its return
                if residency and now >= watch.residency_due_s:
                    watch.residency_due_s = now + self.probes.residency_period_s
                    self._ask(now, watch, "residency", "", self.probes.timeout_s, 0.0, probes)
                continue
            if node.health == "serving":
                if node.last_passed_s <= fresh_s and now >= watch.liveness_due_s:
                    self._ask(now, watch, "liveness", "", self.probes.timeout_s, self.probes.period_s, probes)
                if self.verify and now >= watch.generation_due_s:
                    self._ask_generation_if_idle(now, watch, probes)
            else:
                unwell += 1
                self._ask_unwell(now, watch, probes)
            if residency and now >= watch.residency_due_s:
                watch.residency_due_s = now + self.probes.residency_period_s
                if node.health in ROUTABLE:
                    self._ask(now, watch, "residency", "", self.probes.timeout_s, 0.0, probes)
            if now >= watch.load_path_due_s:
                watch.load_path_due_s = now + self.probes.load_path_period_s
                if node.health in ROUTABLE or (node.health == "drained" and node.name in self.loads_doubted):
                    self._ask_load_path(now, watch, probes)
        self.unwell = unwell

    def _ask_load_path(self, now: float, watch: Watch, probes: list[Probe]) -> None:
        """Have a model loaded and let go: one whose loads have failed, now and then, or else the small one."""
        model, timeout_s = self.probes.load_path_model, self.probes.load_path_timeout_s
        failed = self._to_load_again(now, watch)
        if failed is not None:
            model, timeout_s = failed.model.name, self.view.parameters.redundancy.load_timeout_s
        # Where there is no room the probe would wait for others to go, or have them evicted.
        if model and self._has_room(watch.node, model):
            self._ask(now, watch, "load_path", model, timeout_s, 0.0, probes)

    def _to_load_again(self, now: float, watch: Watch) -> Replica | None:
        """A model of a node in an incident whose loads have failed, so that it is seen when they do no more."""
        node = watch.node
        if node.name not in self.in_incident or now < watch.load_again_due_s:
            return None
        due: Replica | None = None
        for replica in node.replicas.values():
            if replica.loads_failed < LOADS_FAILED or replica.model.name == self.probes.load_path_model:
                continue
            if replica.resident or (not node.loads_nothing and node.free_gib(replica) < replica.model.memory_gib):
                self.load_worked(replica)  # or others have its place by now, and nobody will have it loaded there
            elif (
                not replica.loading
                and not node.would_lose(replica)
                and self._has_room(node, replica.model.name)
                and (due is None or replica.loads_failed < due.loads_failed)
            ):
                due = replica
        if due is not None:
            times = min(due.loads_failed - LOADS_FAILED, 8)
            watch.load_again_due_s = now + min(self.probes.load_path_period_s * 2.0**times, LOAD_AGAIN_MAX_S)
        return due

    def _ask_unwell(self, now: float, watch: Watch, probes: list[Probe]) -> None:
        node = watch.node
        if now >= watch.liveness_due_s:
            period_s = FAST_PROBE_S if node.health == "suspect" else self.probes.period_s
            self._ask(now, watch, "liveness", "", self.probes.timeout_s, period_s, probes)
        if node.health in ("suspect", "down") and now < watch.generation_due_s:
            if self.probes.residency and now >= watch.residency_due_s:
                watch.residency_due_s = now + self.probes.residency_period_s
                self._ask(now, watch, "residency", "", self.probes.timeout_s, 0.0, probes)
            self.wake_s = min(self.wake_s, watch.generation_due_s)
        if self.verify and now >= watch.generation_due_s and node.health != "drained" and node.replicas:
            if node.health == "down" and watch.liveness_error in NOBODY_LISTENS:
                return  # no generation before somebody listens. Silence is another thing: perhaps it is only far away
            model = self.model_to_verify(node)
            replica = node.replicas[model]
            timeout_s = self.probes.generation_timeout_s
            if watch.crowded:
                doublings = min(max(watch.crowded_asks - 1, 0), CROWDED_DOUBLINGS)
                patience_s = self.healer.verify_timeout_s * 2.0**doublings
                timeout_s = max(patience_s, self.patience * node.start_s)
            elif not (watch.slow_error and node.health == "suspect" and replica.resident):
                timeout_s = self.healer.verify_timeout_s  # the model may have to be loaded first
            elif self.view.indexed(replica).in_flight >= replica.model.slots:
                timeout_s *= 2.0  # it has to wait for a slot first: busy is not dead
            elif node.in_flight and replica.hot_route.first_token_deadline_s != NEVER_S and not watch.stalled:
                # It may have to wait for the prompts of others, which have the time that their routes give them.
                timeout_s = max(timeout_s, replica.hot_route.first_token_deadline_s)
            self._ask(now, watch, "generation", model, timeout_s, self.probes.period_s, probes)

    def _ask_generation_if_idle(self, now: float, watch: Watch, probes: list[Probe]) -> None:
        node = watch.node
        idle_since_s = node.last_passed_s
        if now - idle_since_s < self.probes.generation_period_s:
            watch.generation_due_s = idle_since_s + self.probes.generation_period_s
            return
        watch.generation_due_s = now + self.probes.generation_period_s
        replica = self._next_loaded(node)
        if replica is not None and self.view.indexed(replica).in_flight < replica.model.slots:
            timeout_s = self.probes.generation_suspect_s
            period_s = self.probes.generation_period_s
            self._ask(now, watch, "generation", replica.model.name, timeout_s, period_s, probes)

    @staticmethod
    def _doubted(node: NodeView) -> Replica | None:
        """Of the loaded models, the one whose requests failed most often since it last answered, if any did."""
        doubted = None
        failures = 0
        for replica in node.replicas.values():
            if replica.resident and replica.generates and replica.failures_in_row > failures:
                doubted = replica
                failures = replica.failures_in_row
        return doubted

    def _next_loaded(self, node: NodeView) -> Replica | None:
        """A loaded model of the node: each has its own runner, so they are asked in turn."""
        loaded = [replica for replica in node.replicas.values() if replica.resident and replica.generates]
        return loaded[self.watches[node.name].generations_asked % len(loaded)] if loaded else None

    def _has_room(self, node: NodeView, model: str) -> bool:
        replica = node.replicas.get(model)
        return replica is None or replica.resident or self.activity.has_room(node, replica.model.memory_gib)

    def model_to_verify(self, node: NodeView) -> str:
        """The model that shows whether a node works: one that it has loaded and that failed requests, or that it has
        loaded, or is to serve, or the smallest."""
        replica = self._doubted(node) or self._next_loaded(node)
        if replica is not None:
            return replica.model.name
        placed = self.view.placement.get(node.name, ())
        if placed:
            return placed[self.watches[node.name].generations_asked % len(placed)]
        wanted = [m for m in self.view.models.values() if m.replicas > 0] or list(self.view.models.values())
        return min(wanted, key=lambda model: (model.memory_gib, model.name)).name

    def _ask(
        self,
        now: float,
        watch: Watch,
        kind: ProbeKind,
        model: str,
        timeout_s: float,
        period_s: float,
        probes: list[Probe],
    ) -> None:
        if kind in watch.pending:
            return
        self.probe_id += 1
        watch.pending[kind] = self.probe_id
        if kind == "generation":  # slow machines take their time
            timeout_s = max(timeout_s, self.patience * watch.node.start_s)
        if watch.way_s:
            timeout_s = max(timeout_s, WAY_MARGIN * watch.way_s)
        timeout_s = self.observer.widened(timeout_s)
        watch.timeouts_s[kind] = timeout_s
        if kind == "liveness":
            watch.liveness_due_s = now + period_s
        elif kind == "generation":
            watch.generation_due_s = now + period_s
            watch.generations_asked += 1
        context_tokens = 0
        if kind == "generation":
            context_tokens = self.contexts.to_ask_with(watch.node.replicas[model])
            watch.node.replicas[model].taken += 1
        probes.append(Probe(self.probe_id, watch.node.name, kind, model, timeout_s, context_tokens))

    def ask_anew(self, now: float, node: NodeView) -> None:
        """What was known of the node is old: ask it again at once."""
        watch = self.watches[node.name]
        watch.liveness_failures = watch.gone_in_a_row = 0
        watch.liveness_error = watch.evidence = ""
        watch.slow_error = watch.crowded = watch.stalled = False
        watch.way_s = 0.0
        watch.crowded_since_s = NEVER_S
        watch.crowded_asks = 0
        self.activity.forget(node.name)
        watch.failures_s.clear()
        watch.phi.forget()
        watch.pending.clear()
        watch.liveness_due_s = watch.generation_due_s = now
        if self.probes.enabled:
            self.wake_s = now

    def runners_gone(self, now: float, node: NodeView, model: str = "") -> None:
        """The runners of the node were killed, or that model was let go: it is loaded again when it is asked for."""
        self.ask_anew(now, node)
        if not model:
            self.activity.runners_gone(node.name)
        for name, replica in node.replicas.items():
            if not model or name == model:
                replica.load_with(0, self.view.parameters)
                replica.forget_context()
                replica.resident = False
                replica.failures_in_row = replica.taken = 0
        self.view.replace(node, now)

    def restarted(self, now: float, node: NodeView) -> None:
        """A new server process runs on the node: nothing is loaded, and what was known of it is old."""
        self.ask_anew(now, node)
        for replica in node.replicas.values():
            replica.load_with(0, self.view.parameters)
            replica.forget_context()
            replica.resident = replica.loading = False
            replica.generates = True
            replica.failures_in_row = replica.loads_failed = replica.taken = 0
        self.slowness.forget(node.name)
        self.view.replace(node, now)

    def close_due_breakers(self, now: float) -> None:
        """Let nodes whose breaker's time is over get traffic again."""
        if not self.open_breakers:
            return
        for replica in self.open_breakers:
            if replica.breaker_open_until_s <= now:
                replica.failures_in_row = 0
                replica.pool.place(replica, now)
        self.open_breakers = [replica for replica in self.open_breakers if replica.breaker_open_until_s > now]
