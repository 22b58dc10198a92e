"""Distributions of times: how long clients think and wait, when machines fail, how long a repair takes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from twin.scenario.closed import Closed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ConstantDuration(Closed):
    """Always `mean_s`."""

    kind: Literal["constant"]
    mean_s: Annotated[float, Field(ge=0)]

    def seconds(self, random: np.random.Generator, count: int) -> NDArray[np.float64]:
        """The next `count` times, in seconds."""
        import numpy as np  # noqa: PLC0415

        return np.full(count, self.mean_s)


class ExponentialDuration(Closed):
    """Exponential: it does not matter how long one has waited already."""

    kind: Literal["exponential"]
    mean_s: Annotated[float, Field(gt=0)]

    def seconds(self, random: np.random.Generator, count: int) -> NDArray[np.float64]:
        """The next `count` times, in seconds."""
        return random.exponential(self.mean_s, count)


class LognormalDuration(Closed):
    """Lognormal with this mean and coefficient of variation: most are short, a few very long."""

    kind: Literal["lognormal"]
    mean_s: Annotated[float, Field(gt=0)]
    cv: Annotated[float, Field(gt=0, description="Standard deviation / mean.")] = 1.0

    def seconds(self, random: np.random.Generator, count: int) -> NDArray[np.float64]:
        """The next `count` times, in seconds."""
        sigma = math.sqrt(math.log1p(self.cv**2))
        return random.lognormal(math.log(self.mean_s) - sigma**2 / 2, sigma, count)


class WeibullDuration(Closed):
    """Weibull: below shape 1 failures come early (burn-in), at 1 it is exponential, above it they come with age."""

    kind: Literal["weibull"]
    shape: Annotated[float, Field(gt=0)]
    scale_s: Annotated[float, Field(gt=0, description="63 % are shorter; the mean is scale x gamma(1 + 1 / shape).")]

    def seconds(self, random: np.random.Generator, count: int) -> NDArray[np.float64]:
        """The next `count` times, in seconds."""
        return self.scale_s * random.weibull(self.shape, count)


class UniformDuration(Closed):
    """Any time between two bounds, with equal chance."""

    kind: Literal["uniform"]
    min_s: Annotated[float, Field(ge=0)]
    max_s: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _in_order(self) -> UniformDuration:
        if self.min_s > self.max_s:
            raise ValueError(f"min_s {self.min_s:g} is above max_s {self.max_s:g}")
        return self

    def seconds(self, random: np.random.Generator, count: int) -> NDArray[np.float64]:
        """The next `count` times, in seconds."""
        return random.uniform(self.min_s, self.max_s, count)


Duration: TypeAlias = Annotated[
    ConstantDuration | ExponentialDuration | LognormalDuration | WeibullDuration | UniformDuration,
    Field(discriminator="kind"),
]
