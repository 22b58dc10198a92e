"""What the clients of a run ask, the same in both worlds: what comes whatever happens, and what follows from an end.

What comes whatever happens (`openings`) is known before the run. A retry, the next turn of a session and the next request
of a closed loop depend on when and how a request ended (`following`); what they ask is drawn beforehand, or from streams
of their client's own, so that the policy moves their times and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice, repeat, takewhile

import numpy as np

from twin.scenario.contents import Arrival, Contents
from twin.scenario.schema import Scenario
from twin.scenario.workload.arrivals import CHUNK
from twin.scenario.workload.clients import ClosedLoopArrivals
from twin.scenario.workload.trace import TraceArrivals
from twin.scenario.workload.trace_files import read_trace

_ARRIVAL: partial[Arrival] = partial(tuple.__new__, Arrival)
"""An arrival of a tuple of all its values: half the time of its own name, which fills in defaults."""

CLIENT_CHUNK = 16
"""Conversations that a client of a closed loop draws at a time."""


class Demand:
    """The clients. `follows`: something may follow from the end of a request; `has_sessions`: prefixes may repeat.

    Raises `TraceError` where a trace cannot be read.
    """

    def __init__(self, scenario: Scenario, seed: int) -> None:
        workload = scenario.workload
        self.scenario = scenario
        self.seed = seed
        self.end_s = scenario.end_of_load_s
        self._arrivals = workload.arrivals
        self._retry_on = frozenset(workload.patience.retry_on if workload.patience is not None else ())
        retries = workload.patience is not None and workload.patience.retries > 0
        closed = isinstance(workload.arrivals, ClosedLoopArrivals)
        self.follows = retries or closed or workload.sessions is not None
        self.has_sessions = workload.sessions is not None
        if isinstance(workload.arrivals, TraceArrivals):
            self.has_sessions = bool(read_trace(workload.arrivals.file, workload.arrivals.sha256).session.any())
        self._clients: dict[int, _Client] = {}
        self._talks: dict[int, list[Arrival]] = {}  # session to the turns that are to come, the next one last

    def openings(self) -> Iterator[Arrival]:
        """What comes whatever happens, in order of arrival, up to the end of the load. Raises `TraceError`."""
        if isinstance(self._arrivals, TraceArrivals):
            return self._before_end(self._traced(self._arrivals))
        if isinstance(self._arrivals, ClosedLoopArrivals):
            return self._before_end(self._first_of_clients(self._arrivals))
        workload = self.scenario.workload
        if workload.sessions or workload.patience or workload.kinds or workload.context_tokens:
            return self._before_end(self._open())
        return chain.from_iterable(self._plain())

    def _before_end(self, found: Iterator[Arrival]) -> Iterator[Arrival]:
        return takewhile(lambda arrival: arrival.arrival_s < self.end_s, found)

    def following(self, arrival: Arrival, ended_s: float, outcome: str) -> Arrival | None:
        """What a client asks next, after its request ended so; None: nothing, or only after the end of the load."""
        following = self._retry(arrival, ended_s, outcome)
        if following is None and arrival.session in self._talks:
            following = self._next_turn(arrival, ended_s, outcome)
        if following is None and arrival.client:
            following = self._clients[arrival.client].opening(ended_s, self._talks)
        return following if following is not None and following.arrival_s < self.end_s else None

    def _retry(self, arrival: Arrival, ended_s: float, outcome: str) -> Arrival | None:
        temper, tries = arrival.temper, arrival.tries
        if temper is None or outcome not in self._retry_on or tries >= len(temper.retry_delay_s):
            return None
        return arrival._replace(arrival_s=ended_s + temper.retry_delay_s[tries], tries=tries + 1)

    def _next_turn(self, arrival: Arrival, ended_s: float, outcome: str) -> Arrival:
        talk = self._talks[arrival.session]
        turn = talk.pop()
        if not talk:
            del self._talks[arrival.session]
        history = arrival.shared_tokens
        if outcome == "succeeded":
            history = arrival.prompt_tokens + arrival.output_tokens
        context = turn.context_tokens or self.scenario.cluster.context_of(arrival.model)
        if history + turn.prompt_tokens + turn.output_tokens > context:
            history = 0
        return turn._replace(
            arrival_s=ended_s + turn.arrival_s,
            prompt_tokens=history + turn.prompt_tokens,
            session=arrival.session,
            shared_tokens=history,
            client=arrival.client,
        )

    # -- what comes whatever happens -------------------------------------------------------------------------------

    def _plain(self) -> Iterator[Iterator[Arrival]]:
        """Arrivals with nothing but a model and lengths, chunk by chunk: the common case, made without Python's help."""
        contents = Contents(self.scenario, self.seed)
        assert not isinstance(self._arrivals, (ClosedLoopArrivals, TraceArrivals))
        rest = [repeat(default) for default in Arrival._field_defaults.values()]
        for times in self._arrivals.chunks(contents.stream):
            count = len(times)
            columns = (times.tolist(), contents.models(count), *contents.lengths(count), contents.streaming(count))
            wanted = int(np.searchsorted(times, self.end_s))
            yield map(_ARRIVAL, islice(zip(*columns, *rest, strict=False), wanted))
            if wanted < count:
                return

    def _open(self) -> Iterator[Arrival]:
        contents = Contents(self.scenario, self.seed)
        assert not isinstance(self._arrivals, (ClosedLoopArrivals, TraceArrivals))
        session = 0
        for times in self._arrivals.chunks(contents.stream):
            for time_s, talk in zip(times.tolist(), contents.conversations(len(times)), strict=True):
                if len(talk) > 1:
                    session += 1
                yield _opened(talk, time_s, session if len(talk) > 1 else 0, 0, self._talks)

    def _first_of_clients(self, arrivals: ClosedLoopArrivals) -> Iterator[Arrival]:
        for number in range(1, arrivals.clients + 1):
            self._clients[number] = _Client(self.scenario, self.seed, arrivals, number)
        first = [client.opening(0.0, self._talks) for client in self._clients.values()]
        yield from sorted(first, key=lambda arrival: (arrival.arrival_s, arrival.client))

    def _traced(self, arrivals: TraceArrivals) -> Iterator[Arrival]:
        contents = Contents(self.scenario, self.seed)
        trace = read_trace(arrivals.file, arrivals.sha256)
        rows = np.flatnonzero(trace.arrival_s >= arrivals.from_s)[: arrivals.limit]
        times = (trace.arrival_s[rows] - arrivals.from_s) * arrivals.time_scale
        sessions = trace.session[rows]
        copies = max(1, math.ceil(arrivals.rate_scale))
        if arrivals.rate_scale != 1.0 and len(rows):
            span_s = float(times[-1]) * len(rows) / max(1, len(rows) - 1)
            chance = arrivals.rate_scale / copies
            apart = int(sessions.max()) + 1
            parts = []
            for copy in range(copies):
                luck = contents.stream("trace:keep").random(len(rows))
                _, first, member = np.unique(sessions, return_index=True, return_inverse=True)
                luck = np.where(sessions > 0, luck[first[member]], luck)  # a session is kept whole, or not at all
                kept = np.flatnonzero(luck < chance)
                moved = (times[kept] + copy * span_s / copies) % span_s if span_s else times[kept]
                parts.append((moved, rows[kept], np.where(sessions[kept] > 0, sessions[kept] + copy * apart, 0)))
            times, rows, sessions = (np.concatenate(column) for column in zip(*parts, strict=True))
            order = np.argsort(times, kind="stable")
            times, rows, sessions = times[order], rows[order], sessions[order]
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            count = len(part)
            prompts, outputs = contents.traced_lengths(trace, part)
            models, embed_models = contents.models(count), contents.embed_models(count)
            streams, contexts = contents.streaming(count), contents.contexts(count)
            if trace.stream is not None:
                streams = trace.stream[part].tolist()
            if trace.context_tokens is not None:
                contexts = trace.context_tokens[part].tolist()
            tempers = contents.tempers(count)
            shared = trace.shared_tokens[part].tolist()
            named = [trace.model[row] for row in part.tolist()] if trace.model is not None else [""] * count
            for place, (time_s, session) in enumerate(
                zip(times[start : start + count].tolist(), sessions[start : start + count].tolist(), strict=True)
            ):
                embed = None if named[place] else embed_models[place]
                yield Arrival(
                    time_s,
                    named[place] or embed or models[place],
                    prompts[place],
                    0 if embed else outputs[place],
                    streams[place] and not embed,
                    contexts[place],
                    session,
                    min(shared[place], prompts[place] - 1),
                    tempers[place],
                )


class _Client:
    """One client of a closed loop, with streams of its own."""

    def __init__(self, scenario: Scenario, seed: int, arrivals: ClosedLoopArrivals, number: int) -> None:
        self.number = number
        self._clients = arrivals.clients
        self._think_time = arrivals.think_time
        self._contents = Contents(scenario, seed, f"workload:client:{number}")
        self._talks: list[list[Arrival]] = []
        self._thinks: list[float] = []
        self._sessions = 0

    def opening(self, since_s: float, talks: dict[int, list[Arrival]]) -> Arrival:
        """Its next conversation begins, a think time after `since_s`."""
        if not self._talks:
            self._talks = self._contents.conversations(CLIENT_CHUNK)[::-1]
            think = self._think_time.seconds(self._contents.stream("think"), CLIENT_CHUNK)
            self._thinks = think.tolist()[::-1]
        talk = self._talks.pop()
        session = 0
        if len(talk) > 1:
            session = self._sessions * self._clients + self.number
            self._sessions += 1
        return _opened(talk, since_s + self._thinks.pop(), session, self.number, talks)


def _opened(talk: list[Arrival], time_s: float, session: int, client: int, talks: dict[int, list[Arrival]]) -> Arrival:
    """The first turn of a conversation; those that are to come go into `talks`."""
    if session:
        talks[session] = talk[:0:-1]
    return talk[0]._replace(arrival_s=time_s, session=session, client=client)
