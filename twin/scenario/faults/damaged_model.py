"""The model files of a node are damaged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step


class DamagedModel(Fault):
    """A model that is loaded goes on until it is unloaded; from then on every request for it is refused in 2 ms.

    So the node looks idle and fast, and draws traffic under least-busy routing.
    """

    about = About(
        kind="damaged_model",
        identifier="F24",
        what="the files of the models are cut short or gone (a broken copy, a disk error, a wrong cleanup)",
        symptom="truncated: 500 in 2 ms; missing: 400 does not support generate in 1 ms; /api/tags and /api/ps are green",
        precursor="none; it shows at the next load",
        source="measured on Ollama 0.24 with truncated and with missing files",
        ended_by_restart=False,
        ended_by_pull=True,
        live="the node's own copy of the model's files is cut short or removed, and its runners are killed",
    )
    kind: Literal["damaged_model"]
    how: Annotated[Literal["truncated", "missing"], Field(description="What became of the files.")] = "truncated"
    shows_at_once: Annotated[
        bool, Field(description="The runners die with it; else it shows when the models are loaded next.")
    ] = True

    def onset(self) -> Iterator[Step]:
        """Damage the files."""
        yield Step(0.0, "set_condition", 1.0, f"model_files_{self.how}")
        if self.shows_at_once:
            yield Step(0.0, "kill_runner")

    def ending(self) -> Iterator[Step]:
        """Somebody pulls the models again."""
        yield from ()
