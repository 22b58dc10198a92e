"""When requests arrive. Each kind gives times by the thousand, from the random streams that it is handed by name.

Closed loops and traces are arrivals, too, but have files of their own: `clients.py`, `trace.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from twin.scenario.closed import Closed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Times: TypeAlias = NDArray[np.float64]
    Streams: TypeAlias = Callable[[str], np.random.Generator]

CHUNK = 4096
"""So many draws at a time. To change it is to change what a seed draws."""


class PoissonArrivals(Closed):
    """Independent arrivals: exponential gaps."""

    kind: Literal["poisson"]
    rate_rps: Annotated[float, Field(gt=0, description="Requests per second.")]

    def chunks(self, streams: Streams) -> Iterator[Times]:
        """Arrival times in order, without end."""
        return _from_gaps(streams, lambda random: random.exponential(1.0 / self.rate_rps, CHUNK))

    def with_rate(self, rate_rps: float) -> PoissonArrivals:
        """The same at another mean rate."""
        return self.model_copy(update={"rate_rps": rate_rps})


class ConstantArrivals(Closed):
    """One arrival every 1 / rate seconds."""

    kind: Literal["constant"]
    rate_rps: Annotated[float, Field(gt=0, description="Requests per second.")]

    def chunks(self, streams: Streams) -> Iterator[Times]:
        """Arrival times in order, without end."""
        import numpy as np  # noqa: PLC0415

        return _from_gaps(streams, lambda random: np.full(CHUNK, 1.0 / self.rate_rps))

    def with_rate(self, rate_rps: float) -> ConstantArrivals:
        """The same at another mean rate."""
        return self.model_copy(update={"rate_rps": rate_rps})


class BurstyArrivals(Closed):
    """Independent gamma-distributed gaps with a given coefficient of variation (1 is Poisson, more is burstier)."""

    kind: Literal["bursty"]
    rate_rps: Annotated[float, Field(gt=0, description="Requests per second, on average.")]
    cv: Annotated[float, Field(gt=0, description="Coefficient of variation of the gaps.")] = 3.0

    def chunks(self, streams: Streams) -> Iterator[Times]:
        """Arrival times in order, without end."""
        shape = 1.0 / self.cv**2
        return _from_gaps(streams, lambda random: random.gamma(shape, 1.0 / (self.rate_rps * shape), CHUNK))

    def with_rate(self, rate_rps: float) -> BurstyArrivals:
        """The same at another mean rate."""
        return self.model_copy(update={"rate_rps": rate_rps})


class ModulationState(Closed):
    """One state of Markov-modulated arrivals."""

    rate_rps: Annotated[float, Field(ge=0, description="Requests per second while it lasts; 0: none come.")]
    mean_s: Annotated[float, Field(gt=0, description="How long it lasts on average (exponential).")]


class MarkovModulatedArrivals(Closed):
    """Poisson arrivals at a rate that jumps between states: calm and bursts that last. From a state that ends, each of
    the others follows with equal chance; a run begins in a state drawn by the share of time that it has."""

    kind: Literal["markov_modulated"]
    states: Annotated[list[ModulationState], Field(min_length=2)]

    @property
    def rate_rps(self) -> float:
        """The mean rate."""
        return sum(it.rate_rps * it.mean_s for it in self.states) / sum(it.mean_s for it in self.states)

    def chunks(self, streams: Streams) -> Iterator[Times]:
        """Arrival times in order, without end. Exact: unit-rate arrivals, moved by the inverse of the summed-up rate."""
        import numpy as np  # noqa: PLC0415

        arrive, sojourns, jumps = streams("gaps"), streams("modulation:sojourn"), streams("modulation:state")
        shares = np.array([it.mean_s for it in self.states])
        state = int(jumps.choice(len(shares), p=shares / shares.sum()))
        times, works = [0.0], [0.0]  # bends of the summed-up rate: when, and how many arrivals are expected by then
        wanted = 0.0
        while True:
            units = wanted + np.cumsum(arrive.exponential(1.0, CHUNK))
            wanted = float(units[-1])
            while works[-1] <= wanted:
                lasts_s = self.states[state].mean_s * float(sojourns.exponential())
                times.append(times[-1] + lasts_s)
                works.append(works[-1] + lasts_s * self.states[state].rate_rps)
                state = (state + 1 + int(jumps.integers(len(shares) - 1))) % len(shares)
            yield np.interp(units, works, times)
            times, works = times[-2:], works[-2:]  # the next arrival is at the earliest in the last sojourn

    def with_rate(self, rate_rps: float) -> MarkovModulatedArrivals:
        """The same at another mean rate: every state's is scaled."""
        scale = rate_rps / self.rate_rps
        states = [it.model_copy(update={"rate_rps": it.rate_rps * scale}) for it in self.states]
        return self.model_copy(update={"states": states})

    @model_validator(mode="after")
    def _some_rate(self) -> MarkovModulatedArrivals:
        if self.rate_rps <= 0.0:
            raise ValueError("no state has a rate above 0, so nothing ever arrives")
        return self


class DiurnalArrivals(Closed):
    """Poisson arrivals whose rate follows the day: rate x (1 + amplitude x sin(2 pi (t + phase) / period))."""

    kind: Literal["diurnal"]
    rate_rps: Annotated[float, Field(gt=0, description="Requests per second, on average over a period.")]
    amplitude: Annotated[float, Field(ge=0, le=1, description="Swing about the mean; 1: nothing at the trough.")] = 0.5
    period_s: Annotated[float, Field(gt=0)] = 86_400.0
    phase_s: Annotated[
        float, Field(description="How far into the period a run begins; at 0 the rate is at its mean and rising.")
    ] = 0.0

    def rate_at(self, time_s: Times) -> Times:
        """Requests per second at these times."""
        import numpy as np  # noqa: PLC0415

        angle = 2.0 * math.pi * (time_s + self.phase_s) / self.period_s
        return self.rate_rps * (1.0 + self.amplitude * np.sin(angle))

    def expected(self, until_s: float) -> float:
        """How many requests are expected up to that time: the integral of the rate."""
        turn = 2.0 * math.pi / self.period_s
        swing = math.cos(turn * self.phase_s) - math.cos(turn * (until_s + self.phase_s))
        return self.rate_rps * (until_s + self.amplitude / turn * swing)

    def chunks(self, streams: Streams) -> Iterator[Times]:
        """Arrival times in order, without end. Exact: arrivals at the peak rate, thinned (Lewis and Shedler 1979)."""
        import numpy as np  # noqa: PLC0415

        peak_rps = self.rate_rps * (1.0 + self.amplitude)
        gaps, keep = streams("gaps"), streams("thinning")
        now = 0.0
        while True:
            times = now + np.cumsum(gaps.exponential(1.0 / peak_rps, CHUNK))
            now = float(times[-1])
            yield times[keep.random(CHUNK) * peak_rps < self.rate_at(times)]

    def with_rate(self, rate_rps: float) -> DiurnalArrivals:
        """The same at another mean rate."""
        return self.model_copy(update={"rate_rps": rate_rps})


def _from_gaps(streams: Streams, draw: Callable[[np.random.Generator], Times]) -> Iterator[Times]:
    """The times of a renewal process."""
    import numpy as np  # noqa: PLC0415

    random = streams("gaps")
    now = 0.0
    while True:
        times = now + np.cumsum(draw(random))
        now = float(times[-1])
        yield times
