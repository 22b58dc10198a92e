"""What requests ask: model, lengths, streaming, context, and how patient their clients are; drawn by the thousand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np

from twin.scenario.draws import stream
from twin.scenario.schema import Scenario
from twin.scenario.workload.lengths import TraceLength
from twin.scenario.workload.trace_files import Trace, read_trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from twin.scenario.durations import Duration
    from twin.scenario.workload.lengths import Length


class Temper(NamedTuple):
    """How long a client waits, in its first try and in each further one; and how long between them."""

    first_token_s: tuple[float, ...]
    end_s: tuple[float, ...]
    retry_delay_s: tuple[float, ...]


class Arrival(NamedTuple):
    """One request of the workload."""

    arrival_s: float
    model: str
    prompt_tokens: int
    output_tokens: int  # 0: an embedding
    stream: bool
    context_tokens: int = 0  # num_ctx that it asks for; 0: none
    session: int = 0  # 0: none
    shared_tokens: int = 0  # of the prompt: those that repeat what the session had before
    temper: Temper | None = None  # None: its client waits for ever, and tries once
    tries: int = 0  # before this one
    client: int = 0  # of a closed loop, from 1; 0: none


def _whole(numbers: NDArray[np.int64]) -> list[int]:
    found: list[int] = numbers.tolist()
    return found


Value = TypeVar("Value", str, int)


class _Mix(Generic[Value]):
    """Values with their shares. A single one is not drawn."""

    def __init__(self, shares: Mapping[Value, float]) -> None:
        self.values: list[Value] = list(shares)
        weights = np.array([shares[value] for value in self.values])
        self.weights = weights / weights.sum()

    def draw(self, random: Callable[[], np.random.Generator], count: int) -> list[Value]:
        """The next `count` values."""
        if len(self.values) == 1:
            return self.values * count
        values = self.values
        places: list[int] = random().choice(len(values), count, p=self.weights).tolist()
        return [values[place] for place in places]


class Contents:
    """Draws what requests ask. `prefix` names the streams, so that whoever has one of his own shifts nobody else's."""

    def __init__(self, scenario: Scenario, seed: int, prefix: str = "workload") -> None:
        workload = scenario.workload
        shares = workload.models or {name: 1.0 for name, model in scenario.cluster.models.items() if model.replicas}
        self.workload = workload
        self._models = _Mix(shares or dict.fromkeys(scenario.cluster.models, 1.0))
        self._contexts = _Mix(workload.context_tokens) if workload.context_tokens else None
        self._embed_share = 0.0
        if workload.kinds:
            self._embed_share = workload.kinds.get("embed", 0.0) / sum(workload.kinds.values())
        self._embed_models = _Mix(workload.embed_models) if workload.embed_models else self._models
        self._streams: dict[str, np.random.Generator] = {}
        self._seed = seed
        self._prefix = prefix

    def stream(self, purpose: str) -> np.random.Generator:
        """The random stream of that purpose; the same object each time."""
        found = self._streams.get(purpose)
        if found is None:
            found = self._streams[purpose] = stream(self._seed, f"{self._prefix}:{purpose}")
        return found

    def models(self, count: int) -> list[str]:
        """The next models."""
        return self._models.draw(lambda: self.stream("model"), count)

    def contexts(self, count: int) -> list[int]:
        """The next num_ctx."""
        if self._contexts is None:
            return [0] * count
        return self._contexts.draw(lambda: self.stream("context"), count)

    def embed_models(self, count: int) -> list[str | None]:
        """The models of those of the next requests that are embeddings; None: it is a chat."""
        if not self._embed_share:
            return [None] * count
        embeds = (self.stream("kind").random(count) < self._embed_share).tolist()
        models = self._embed_models.draw(lambda: self.stream("embed_model"), count)
        return [model if embed else None for embed, model in zip(embeds, models, strict=True)]

    def lengths(self, count: int) -> tuple[list[int], list[int]]:
        """The next prompt and output lengths."""
        rows: dict[str, NDArray[np.int64]] = {}
        return (
            self._length(self.workload.prompt_tokens, "prompt", count, rows),
            self._length(self.workload.output_tokens, "output", count, rows),
        )

    def _length(self, length: Length, purpose: str, count: int, rows: dict[str, NDArray[np.int64]]) -> list[int]:
        if not isinstance(length, TraceLength):
            return _whole(length.tokens(self.stream(purpose), count))
        assert length.file is not None
        trace = read_trace(length.file, length.sha256)
        if length.file not in rows:
            rows[length.file] = self.stream("trace_row").integers(len(trace.arrival_s), size=count)
        column = trace.prompt_tokens if purpose == "prompt" else trace.output_tokens
        return _whole(length.scaled(column[rows[length.file]]))

    def streaming(self, count: int) -> list[bool]:
        """Which of the next requests stream."""
        found: list[bool] = (self.stream("stream").random(count) < self.workload.streaming).tolist()
        return found

    def tempers(self, count: int) -> list[Temper | None]:
        """The patience of the next requests' clients; None: they wait for ever."""
        patience = self.workload.patience
        if patience is None:
            return [None] * count
        tries = patience.retries + 1

        def several(duration: Duration | None, purpose: str, each: int) -> list[tuple[float, ...]]:
            if duration is None:
                return [(np.inf,) * each] * count
            drawn = duration.seconds(self.stream(purpose), count * each).reshape(count, each)
            return [tuple(row) for row in drawn.tolist()]

        columns = (
            several(patience.first_token, "patience:first_token", tries),
            several(patience.end, "patience:end", tries),
            several(patience.retry_delay, "patience:retry_delay", tries - 1),
        )
        return [Temper(*row) for row in zip(*columns, strict=True)]

    def traced_lengths(self, trace: Trace, rows: NDArray[np.int64]) -> tuple[list[int], list[int]]:
        """Lengths of these rows of the trace that the arrivals replay."""
        drawn: dict[str, NDArray[np.int64]] = {}

        def one(length: Length, purpose: str, column: NDArray[np.int64]) -> list[int]:
            if isinstance(length, TraceLength) and length.file is None:
                return _whole(length.scaled(column[rows]))
            return self._length(length, purpose, len(rows), drawn)

        return (
            one(self.workload.prompt_tokens, "prompt", trace.prompt_tokens),
            one(self.workload.output_tokens, "output", trace.output_tokens),
        )

    def turns(self, count: int) -> list[int]:
        """How many turns the next conversations have."""
        sessions = self.workload.sessions
        if sessions is None:
            return [1] * count
        return _whole(self.stream("turns").geometric(1.0 / sessions.mean_turns, count).clip(1, sessions.max_turns))

    def conversations(self, count: int) -> list[list[Arrival]]:
        """The next conversations, each a list of its turns; of one turn, where there are no sessions.

        `arrival_s` is the think time before the turn, 0 for the first; `prompt_tokens` are the new ones.
        """
        turns = self.turns(count)
        embed_models = self.embed_models(count)
        turns = [1 if embed is not None else each for each, embed in zip(turns, embed_models, strict=True)]
        total = sum(turns)
        thinks = [0.0] * total
        if self.workload.sessions is not None:
            thinks = self.workload.sessions.think_time.seconds(self.stream("sessions:think"), total).tolist()
        rows = zip(*self.lengths(total), self.streaming(total), self.tempers(total), thinks, strict=True)
        found = []
        for model, context, embed, several in zip(
            self.models(count), self.contexts(count), embed_models, turns, strict=True
        ):
            talk = []
            for turn in range(several):
                prompt, output, streams_it, temper, think_s = next(rows)
                if embed is None:
                    think_s = think_s if turn else 0.0
                    talk.append(Arrival(think_s, model, prompt, output, streams_it, context, 0, 0, temper))
                else:
                    talk.append(Arrival(0.0, embed, prompt, 0, False, 0, 0, 0, temper))
            found.append(talk)
        return found
