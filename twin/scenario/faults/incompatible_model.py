"""A node is upgraded to a version that cannot read its models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step


class IncompatibleModel(Fault):
    """The service is down for `upgrade_s`, and then no model can be loaded: the runner starts and refuses the file."""

    about = About(
        kind="incompatible_model",
        identifier="F26",
        what="an upgrade or downgrade of Ollama; the model files are of another format",
        symptom="500 this model may be incompatible with your version of Ollama, for every model",
        precursor="only once it is there: /api/version has changed",
        source="the failure catalogue names no issue; the message is from Ollama's source, and goes on: try `ollama pull`",
        ended_by_restart=False,
        ended_by_pull=True,
    )
    kind: Literal["incompatible_model"]
    upgrade_s: Annotated[float, Field(gt=0, le=3600, description="How long the service is down meanwhile.")] = 3.0

    def onset(self) -> Iterator[Step]:
        """Stop, upgrade, start."""
        yield Step(0.0, "kill_server")
        yield Step(0.0, "set_condition", 1.0, "models_incompatible")
        yield Step(self.upgrade_s, "start_server")

    def ending(self) -> Iterator[Step]:
        """Somebody goes back to the version before, or pulls what suits this one; what the upgrade had stopped runs."""
        yield Step(0.0, "start_server")
