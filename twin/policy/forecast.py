"""What a predictor says of a node: which failure, how likely within a horizon, how soon, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mypy_extensions import mypyc_attr

FailureClass: TypeAlias = Literal[
    "gpu_memory",  # GPU memory runs out: a leak, an orphaned runner, another program, long contexts
    "host_memory",  # main memory runs out
    "overheating",  # the machine throttles, or decays slowly
    "gpu_fault",  # the GPU or its driver fails: memory errors, Xid lines
    "scheduler_stuck",  # Ollama's one loader, or an unload, hangs
    "disk_full",  # no space for models or logs
    "runner_failure",  # a runner crashes, hangs or crashes again and again
    "server_failure",  # the server or its machine goes away
]
"""Failures by what mends them. A fault kind of the catalogue belongs to one of them."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """A failure that may come. `probability` is calibrated: of forecasts with .8, eight in ten come true."""

    node: str
    failure: FailureClass
    probability: float  # that it fails so within the horizon
    horizon_s: float
    lead_s: float  # expected time until then, if it comes
    reasons: tuple[str, ...]  # for a person to read, the weightiest first


@mypyc_attr(allow_interpreted_subclasses=True)
class Forecaster:
    """Foretells failures. This one foretells nothing: what a policy without a predictor has."""

    def forecasts(self, now: float) -> Sequence[Forecast]:
        """What may come, as far as it can be told now; asked for in each control period."""
        return ()
