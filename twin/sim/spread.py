"""Times that vary: factors about one, from a random stream of their own."""

from __future__ import annotations

import math

import numpy as np

from twin.scenario.draws import stream


class Spread:
    """Lognormal factors of mean 1 with this coefficient of variation, the next with each call; without variation 1.

    Of the shape only the mean and the spread are meant: a start-up or a load is never faster than its parts, and now and
    then much slower (a cold page cache, a busy disk). How much is an assumption, until a calibration replaces it.
    """

    def __init__(self, seed: int, name: str, cv: float) -> None:
        self._seed = seed
        self._name = name
        self._sigma = math.sqrt(math.log1p(cv * cv))
        self._stream: np.random.Generator | None = None

    def next(self) -> float:
        """The next factor."""
        if self._sigma == 0.0:
            return 1.0
        if self._stream is None:  # most nodes never restart
            self._stream = stream(self._seed, self._name)
        return float(self._stream.lognormal(-self._sigma * self._sigma / 2.0, self._sigma))
