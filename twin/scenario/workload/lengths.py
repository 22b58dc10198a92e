"""How long requests are, in tokens. Each kind draws from the random stream that it is handed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from twin.scenario.closed import Closed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ConstantLength(Closed):
    """Always `mean` tokens."""

    kind: Literal["constant"]
    mean: Annotated[float, Field(ge=1)]

    def tokens(self, random: np.random.Generator, count: int) -> NDArray[np.int64]:
        """The next `count` lengths, in tokens."""
        import numpy as np  # noqa: PLC0415

        return np.full(count, round(self.mean), dtype=np.int64)


class ExponentialLength(Closed):
    """Exponential with this mean, rounded up: at least one token."""

    kind: Literal["exponential"]
    mean: Annotated[float, Field(ge=1)]

    def tokens(self, random: np.random.Generator, count: int) -> NDArray[np.int64]:
        """The next `count` lengths, in tokens."""
        import numpy as np  # noqa: PLC0415

        return np.ceil(random.exponential(self.mean, count)).astype(np.int64).clip(1)


class LognormalLength(Closed):
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


class EmpiricalLength(Closed):
    """Drawn with equal chance from the given values."""

    kind: Literal["empirical"]
    values: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]

    def tokens(self, random: np.random.Generator, count: int) -> NDArray[np.int64]:
        """The next `count` lengths, in tokens."""
        import numpy as np  # noqa: PLC0415

        return random.choice(np.asarray(self.values, dtype=np.int64), count)


class HistogramLength(Closed):
    """A bin drawn by its weight, then any length in it: `edges` are the bins' bounds, the last one included."""

    kind: Literal["histogram"]
    edges: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2)]
    weights: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)]

    @model_validator(mode="after")
    def _it_is_one(self) -> HistogramLength:
        if len(self.edges) != len(self.weights) + 1:
            raise ValueError(f"{len(self.weights)} weights need {len(self.weights) + 1} edges, not {len(self.edges)}")
        if any(low >= high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("edges must rise")
        if sum(self.weights) <= 0.0:
            raise ValueError("no weight is above 0")
        return self

    def tokens(self, random: np.random.Generator, count: int) -> NDArray[np.int64]:
        """The next `count` lengths, in tokens."""
        import numpy as np  # noqa: PLC0415

        weights = np.asarray(self.weights)
        bins = random.choice(len(weights), count, p=weights / weights.sum())
        low = np.asarray(self.edges[:-1], dtype=np.int64)[bins]
        high = np.asarray([edge - 1 for edge in self.edges[1:-1]] + [self.edges[-1]], dtype=np.int64)[bins]
        return low + np.floor(random.random(count) * (high - low + 1)).astype(np.int64)


class TraceLength(Closed):
    """As the trace says: prompt and output of a request belong together. Without a `file` it is the trace that the
    arrivals replay; with one, rows of it are drawn with equal chance, the same row for both lengths."""

    kind: Literal["from_trace"]
    file: Annotated[str | None, Field(description="A trace; relative to the scenario's file.")] = None
    sha256: Annotated[str | None, Field(description="Of the file; filled in when the scenario is loaded.")] = None
    scale: Annotated[float, Field(gt=0, description="Lengths times this.")] = 1.0
    max: Annotated[int | None, Field(ge=1, description="No longer than this.")] = None

    def scaled(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """What becomes of the trace's lengths."""
        import numpy as np  # noqa: PLC0415

        found: NDArray[np.int64] = np.rint(tokens * self.scale).astype(np.int64).clip(1, self.max)
        return found


DrawnLength: TypeAlias = ConstantLength | ExponentialLength | LognormalLength | EmpiricalLength | HistogramLength
Length: TypeAlias = Annotated[DrawnLength | TraceLength, Field(discriminator="kind")]
