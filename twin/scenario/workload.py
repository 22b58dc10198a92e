"""The load: when requests arrive and how long they are. Each kind draws from the random stream that it is handed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PoissonArrivals(_Closed):
    """Independent arrivals: exponential gaps."""

    kind: Literal["poisson"]
    rate_rps: Annotated[float, Field(gt=0, description="Requests per second.")]

    def gaps_s(self, random: np.random.Generator, count: int) -> NDArray[np.float64]:
        """The next `count` gaps between arrivals."""
        return random.exponential(1.0 / self.rate_rps, count)


class ConstantArrivals(_Closed):
    """One arrival every 1 / rate seconds."""

    kind: Literal["constant"]
    rate_rps: Annotated[float, Field(gt=0, description="Requests per second.")]

    def gaps_s(self, random: np.random.Generator, count: int) -> NDArray[np.float64]:
        """The next `count` gaps between arrivals."""
        import numpy as np  # noqa: PLC0415

        return np.full(count, 1.0 / self.rate_rps)


class BurstyArrivals(_Closed):
    """Independent gamma-distributed gaps with a given coefficient of variation (1 is Poisson, more is burstier)."""

    kind: Literal["bursty"]
    rate_rps: Annotated[float, Field(gt=0, description="Requests per second, on average.")]
    cv: Annotated[float, Field(gt=0, description="Coefficient of variation of the gaps.")] = 3.0

    def gaps_s(self, random: np.random.Generator, count: int) -> NDArray[np.float64]:
        """The next `count` gaps between arrivals."""
        shape = 1.0 / self.cv**2
        return random.gamma(shape, 1.0 / (self.rate_rps * shape), count)


Arrivals: TypeAlias = Annotated[PoissonArrivals | ConstantArrivals | BurstyArrivals, Field(discriminator="kind")]


class ConstantLength(_Closed):
    """Always `mean` tokens."""

    kind: Literal["constant"]
    mean: Annotated[float, Field(ge=1)]

    def tokens(self, random: np.random.Generator, count: int) -> NDArray[np.int64]:
        """The next `count` lengths, in tokens."""
        import numpy as np  # noqa: PLC0415

        return np.full(count, round(self.mean), dtype=np.int64)


class ExponentialLength(_Closed):
    """Exponential with this mean, rounded up: at least one token."""

    kind: Literal["exponential"]
    mean: Annotated[float, Field(ge=1)]

    def tokens(self, random: np.random.Generator, count: int) -> NDArray[np.int64]:
        """The next `count` lengths, in tokens."""
        import numpy as np  # noqa: PLC0415

        return np.ceil(random.exponential(self.mean, count)).astype(np.int64).clip(1)


class LognormalLength(_Closed):
    """Lognormal with this mean and coefficient of variation, rounded, at least one token."""

    kind: Literal["lognormal"]
    mean: Annotated[float, Field(ge=1)]
    cv: Annotated[float, Field(gt=0)] = 1.0

    def tokens(self, random: np.random.Generator, count: int) -> NDArray[np.int64]:
        """The next `count` lengths, in tokens."""
        import numpy as np  # noqa: PLC0415

        sigma = math.sqrt(math.log1p(self.cv**2))
        drawn = random.lognormal(math.log(self.mean) - sigma**2 / 2, sigma, count)
        return np.rint(drawn).astype(np.int64).clip(1)


class EmpiricalLength(_Closed):
    """Drawn with equal chance from the given values."""

    kind: Literal["empirical"]
    values: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]

    def tokens(self, random: np.random.Generator, count: int) -> NDArray[np.int64]:
        """The next `count` lengths, in tokens."""
        import numpy as np  # noqa: PLC0415

        return random.choice(np.asarray(self.values, dtype=np.int64), count)


Length: TypeAlias = Annotated[
    ConstantLength | ExponentialLength | LognormalLength | EmpiricalLength, Field(discriminator="kind")
]


class Workload(_Closed):
    """What clients ask, and for how long."""

    arrivals: Arrivals
    prompt_tokens: Length
    output_tokens: Length
    streaming: Annotated[float, Field(ge=0, le=1, description="Share of requests that stream.")] = 0.8
    models: Annotated[
        dict[str, Annotated[float, Field(gt=0)]] | None,
        Field(description="Share of each model; absent: equal shares of the models that have replicas."),
    ] = None
    deadline_s: Annotated[float, Field(gt=0, le=1_000_000, description="A request not ended by then has failed.")] = (
        60.0
    )
    warmup_s: Annotated[float, Field(ge=0, le=31_536_000, description="Load before the measured time.")] = 30.0
    duration_s: Annotated[float, Field(gt=0, le=31_536_000, description="The measured time, after the warm-up.")]
