"""A GPU gets too hot, and takes its clock down."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step, merged, ramp


class ThermalThrottle(Fault):
    """The cooling fails; what follows is the machine's own: under load the GPU heats up, and at its limit the clock falls.

    How soon and how far depends on the load and the hardware: an idle node shows nothing.
    """

    about = About(
        kind="thermal_throttle",
        identifier="F20",
        what="a fan fails, dust, or warm air: less heat is carried away",
        symptom="no error; under load tokens come more slowly, and prefills most of all; it stays so, also after a restart",
        precursor="temperature rises; then the clock falls",
        source="ollama/ollama issues 7717, 7740; jundot/omlx issue 2689 (1368 to 743 MHz in a soak of 3 h)",
        ended_by_restart=False,
    )
    kind: Literal["thermal_throttle"]
    cooling_factor: Annotated[
        float, Field(gt=0, lt=1, description="Heat carried away per degree, against the usual.")
    ] = 0.4
    ambient_added_c: Annotated[float, Field(ge=0, le=60, description="How much warmer the air is.")] = 0.0

    def signs(self) -> Iterator[Step]:
        """The cooling gets worse, half of the way."""
        half = (1.0 + self.cooling_factor) / 2.0
        return merged(
            ramp("cooling_factor", 1.0, half, self.lead_s),
            ramp("ambient_added_c", 0.0, self.ambient_added_c / 2.0, self.lead_s),
        )

    def onset(self) -> Iterator[Step]:
        """It fails."""
        yield Step(0.0, "set_condition", self.cooling_factor, "cooling_factor")
        yield Step(0.0, "set_condition", self.ambient_added_c, "ambient_added_c")

    def ending(self) -> Iterator[Step]:
        """What was set is withdrawn."""
        yield from ()
