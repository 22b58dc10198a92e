"""Probes of the simulated nodes. Those whose answer is known at once cost no event."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, get_args

from twin.policy.vocabulary import NEVER_S, AttemptError, Probe, ProbeKind, ProbeResult
from twin.sim.network import Path
from twin.sim.runner import Job
from twin.sim.traffic import MESSAGE_BYTES

if TYPE_CHECKING:
    from twin.sim.gateway import Gateway

ANSWER_S: Final = 0.001
"""Time in which a server answers what needs no runner (measured on real nodes: 1 ms)."""

PROBE_PROMPT_TOKENS: Final = 8
DELAY_WORTH_AN_EVENT_S: Final = 0.05


class Pending:
    """A probe that has not been answered."""

    __slots__ = ("answered", "job", "probe", "sent_s", "trip_s")

    def __init__(self, probe: Probe, sent_s: float) -> None:
        self.probe = probe
        self.sent_s = sent_s
        self.trip_s = 0.0  # there and back
        self.answered = False
        self.job: Job | None = None


class Probing:
    """Answers each probe once."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.passed: dict[str, int] = dict.fromkeys(get_args(ProbeKind), 0)
        self._at_runners: list[Pending] = []  # probes that a runner is to answer

    def count(self) -> None:
        """Put the counts of probes that passed into the record."""
        counters = self.gateway.recorder.counters
        for kind, count in self.passed.items():
            counters[f"probes_passed_{kind}"] = counters.get(f"probes_passed_{kind}", 0) + count

    def perform(self, probe: Probe) -> None:
        """Ask a node."""
        gateway = self.gateway
        now = gateway.engine.now
        path = gateway.paths[probe.node]
        pending = Pending(probe, now)
        if not path.requests_pass:
            self._later(now + probe.timeout_s, pending, "unreachable")
            return
        trip_s = pending.trip_s = path.round_trip_s if path.plain else _trip_s(path)
        if path.refuses:
            self._fails(pending, "refused", trip_s)
        elif trip_s >= DELAY_WORTH_AN_EVENT_S:
            gateway.engine.call_at(now + trip_s, partial(self._arrived, pending))
            self._later(now + probe.timeout_s, pending, "unreachable")
        else:
            self._arrived(pending)

    def _arrived(self, pending: Pending) -> None:
        gateway = self.gateway
        probe = pending.probe
        path = gateway.paths[probe.node]
        if pending.answered or not path.requests_pass:
            return
        node = gateway.nodes[probe.node]
        if not path.answers_pass and (not node.alive or probe.kind in ("liveness", "residency")):
            self._later(pending.sent_s + probe.timeout_s, pending, "first_token_timeout")  # its answer is lost
        elif not node.alive:
            self._fails(pending, "refused", self._trip_to_come_s(pending))
        elif probe.kind == "liveness":
            self._answer(pending, "")
        elif probe.kind == "residency":
            if node.malfunctions.lock_held:  # /api/ps waits for the same lock
                self._later(pending.sent_s + probe.timeout_s, pending, "first_token_timeout")
            else:
                models = node.resident()
                self._answer(pending, "", models, tuple(node.runners[it].context_tokens for it in models))
        else:
            tokens = 1 if probe.kind == "generation" else 0
            pending.job = Job(probe.model, PROBE_PROMPT_TOKENS, tokens, self._job_ended, pending, probe.context_tokens)
            self._at_runners.append(pending)
            node.submit(pending.job)
            due_s = pending.sent_s + probe.timeout_s
            if not pending.job.first_token_s <= due_s or path.silent_since_s != NEVER_S or node.shaping:
                self._later(due_s, pending, "first_token_timeout")

    def _job_ended(self, job: Job, error: AttemptError) -> None:
        pending = job.owner
        assert isinstance(pending, Pending)
        if not pending.answered and self.gateway.paths[pending.probe.node].answers_pass:
            if error:
                self._fails(pending, error, self._trip_to_come_s(pending))
                return
            self._answer(pending, error)
            if pending.probe.kind == "load_path":
                self.gateway.nodes[pending.probe.node].unload(pending.probe.model)

    @staticmethod
    def _trip_to_come_s(pending: Pending) -> float:
        """What of the way there and back has not been spent before the probe arrived."""
        return pending.trip_s if pending.trip_s < DELAY_WORTH_AN_EVENT_S else 0.0

    def _fails(self, pending: Pending, error: AttemptError, after_s: float) -> None:
        """It failed; the news takes its way."""
        if after_s > 0.0:
            self.gateway.engine.call_at(self.gateway.engine.now + after_s, partial(self._failed, pending, error))
        else:
            self._failed(pending, error)

    def _failed(self, pending: Pending, error: AttemptError) -> None:
        if not pending.answered:
            self._answer(pending, error)

    def fell_silent(self, node: str) -> None:
        """From now on nothing more comes from the node: what was expected in time may not come."""
        for pending in self._at_runners:
            if pending.probe.node == node:
                self._later(pending.sent_s + pending.probe.timeout_s, pending, "first_token_timeout")

    def _later(self, time_s: float, pending: Pending, error: AttemptError) -> None:
        self.gateway.engine.call_at(time_s, partial(self._timed_out, pending, error))

    def _timed_out(self, pending: Pending, error: AttemptError) -> None:
        if pending.answered:
            return
        if pending.job is not None:
            node = self.gateway.nodes[pending.probe.node]
            pending.job.abandoned = True
            if node.alive and self.gateway.paths[node.name].requests_pass:
                node.cancel(pending.job)
        self._answer(pending, error)

    def _answer(
        self, pending: Pending, error: AttemptError, models: tuple[str, ...] = (), contexts: tuple[int, ...] = ()
    ) -> None:
        gateway = self.gateway
        probe = pending.probe
        now = gateway.engine.now
        pending.answered = True
        if pending.job is not None:
            self._at_runners.remove(pending)
        latency_s = now - pending.sent_s
        if not error:
            latency_s += ANSWER_S
            if latency_s < DELAY_WORTH_AN_EVENT_S:
                latency_s += pending.trip_s
        if error or probe.kind in ("generation", "load_path"):
            gateway.recorder.probes.add(
                (now, probe.node, probe.kind, probe.model, not error, latency_s, error, gateway.name)
            )
        else:
            self.passed[probe.kind] += 1
        result = ProbeResult(
            probe.probe_id, probe.node, probe.kind, probe.model, not error, latency_s, error, models, contexts
        )
        gateway.observe(result)


def _trip_s(path: Path) -> float:
    """There and back over a path that is not plain; a probe and its answer are small messages, one segment each."""
    carried_s = sum(MESSAGE_BYTES / path.share_bytes_per_s(lanes) for lanes in (path.request_lanes, path.answer_lanes))
    return path.trip_s() + carried_s + path.loss_delay_s() + path.loss_delay_s()
