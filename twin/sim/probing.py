"""Probes of the simulated nodes. Those whose answer is known at once cost no event."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, get_args

from twin.policy.vocabulary import AttemptError, Probe, ProbeKind, ProbeResult
from twin.sim.runner import Job

if TYPE_CHECKING:
    from twin.sim.gateway import Gateway

ANSWER_S: Final = 0.001
"""Time in which a server answers what needs no runner (measured on real nodes: 1 ms)."""

PROBE_PROMPT_TOKENS: Final = 8
DELAY_WORTH_AN_EVENT_S: Final = 0.05


class Pending:
    """A probe that has not been answered."""

    __slots__ = ("answered", "job", "probe", "sent_s")

    def __init__(self, probe: Probe, sent_s: float) -> None:
        self.probe = probe
        self.sent_s = sent_s
        self.answered = False
        self.job: Job | None = None


class Probing:
    """Answers each probe once."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.passed: dict[str, int] = dict.fromkeys(get_args(ProbeKind), 0)

    def count(self) -> None:
        """Put the counts of probes that passed into the record."""
        self.gateway.recorder.counters |= {f"probes_passed_{kind}": count for kind, count in self.passed.items()}

    def perform(self, probe: Probe) -> None:
        """Ask a node."""
        gateway = self.gateway
        now = gateway.engine.now
        path = gateway.paths[probe.node]
        pending = Pending(probe, now)
        if path.cut:
            self._later(now + probe.timeout_s, pending, "unreachable")
            return
        arrives_s = now + path.round_trip_s
        if path.round_trip_s >= DELAY_WORTH_AN_EVENT_S:
            gateway.engine.call_at(arrives_s, partial(self._arrived, pending))
            self._later(now + probe.timeout_s, pending, "unreachable")
        else:
            self._arrived(pending)

    def _arrived(self, pending: Pending) -> None:
        gateway = self.gateway
        probe = pending.probe
        if pending.answered or gateway.paths[probe.node].cut:
            return
        node = gateway.nodes[probe.node]
        if not node.alive:
            self._answer(pending, "refused")
        elif probe.kind == "liveness":
            self._answer(pending, "")
        elif probe.kind == "residency":
            self._answer(pending, "", node.resident())
        else:
            tokens = 1 if probe.kind == "generation" else 0
            pending.job = Job(probe.model, PROBE_PROMPT_TOKENS, tokens, self._job_ended, pending)
            node.submit(pending.job)
            due_s = pending.sent_s + probe.timeout_s
            if not pending.job.first_token_s <= due_s or gateway.simulation.injection.silent(probe.node):
                self._later(due_s, pending, "first_token_timeout")

    def _job_ended(self, job: Job, error: AttemptError) -> None:
        pending = job.owner
        assert isinstance(pending, Pending)
        if not pending.answered and not self.gateway.paths[pending.probe.node].cut:
            self._answer(pending, error)
            if pending.probe.kind == "load_path" and not error:
                self.gateway.nodes[pending.probe.node].unload(pending.probe.model)

    def _later(self, time_s: float, pending: Pending, error: AttemptError) -> None:
        self.gateway.engine.call_at(time_s, partial(self._timed_out, pending, error))

    def _timed_out(self, pending: Pending, error: AttemptError) -> None:
        if pending.answered:
            return
        if pending.job is not None:
            node = self.gateway.nodes[pending.probe.node]
            pending.job.abandoned = True
            if node.alive and not self.gateway.paths[node.name].cut:
                node.cancel(pending.job)
        self._answer(pending, error)

    def _answer(self, pending: Pending, error: AttemptError, models: tuple[str, ...] = ()) -> None:
        gateway = self.gateway
        probe = pending.probe
        now = gateway.engine.now
        pending.answered = True
        latency_s = now - pending.sent_s
        if not error:
            latency_s += ANSWER_S
            if latency_s < DELAY_WORTH_AN_EVENT_S:
                latency_s += gateway.paths[probe.node].round_trip_s
        if error or probe.kind in ("generation", "load_path"):
            gateway.recorder.probes.add((now, probe.node, probe.kind, probe.model, not error, latency_s, error))
        else:
            self.passed[probe.kind] += 1
        result = ProbeResult(probe.probe_id, probe.node, probe.kind, probe.model, not error, latency_s, error, models)
        gateway.observe(result)
