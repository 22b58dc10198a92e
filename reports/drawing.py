"""What the charts share: palette, axes, bins, and what a drawing is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import altair as alt
import numpy as np

from twin.record.recovery import Times

Row: TypeAlias = dict[str, Any]

# Okabe and Ito's palette, told apart with every kind of colour vision; blue and grey lighter, to stand on black too.
BLUE, GREEN, AMBER, VERMILION, PURPLE, GREY = "#3d8fd1", "#009e73", "#e69f00", "#d55e00", "#cc79a7", "#8a8f98"
BIN_WIDTHS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
BINS_MAX = 130
MARKS_MAX = 800
HEIGHT_PX = 170
X_TITLE = "Time since the start of the run (s)"


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart with its title and the sentence that says what to see in it."""

    title: str
    sentence: str
    chart: alt.LayerChart

    def spec(self) -> dict[str, Any]:
        """The chart as a Vega-Lite specification, with its data in `datasets`."""
        return self.chart.to_dict()


def edges(end_s: float, bins_max: int = BINS_MAX) -> Times:
    """Bounds of bins of a round width, the last one at or after the end."""
    width_s = next((width for width in BIN_WIDTHS_S if end_s / width <= bins_max), end_s / bins_max)
    return np.arange(max(1, int(np.ceil(end_s / width_s))) + 1, dtype=np.float64) * width_s


def chart(rows: list[Row]) -> alt.Chart:
    """Rows of data as a chart without a mark yet."""
    return alt.Chart(alt.InlineData(values=rows))


def layered(layers: Sequence[Any], height_px: int = HEIGHT_PX) -> alt.LayerChart:
    """The layers that have data, one upon the other, as wide as the container."""
    drawn = [layer for layer in layers if layer.data.values]
    return alt.LayerChart(layer=list(drawn or layers[:1]), width="container", height=height_px)


def clock(end_s: float, field: str = "at", start_s: float = 0.0) -> alt.X:
    """The x axis: the run on its own clock, from its start where nothing else is said."""
    scale = alt.Scale(domain=[rounded(start_s), rounded(end_s)], nice=False)
    return alt.X(f"{field}:Q", scale=scale, axis=alt.Axis(title=X_TITLE, grid=False, tickCount=8))


def axis(title: str) -> alt.Axis:
    """A y axis; all are equally wide, so that the charts stand in line."""
    return alt.Axis(title=title, tickCount=4, minExtent=64)


def legend() -> alt.Legend:
    """A legend below the chart, where a narrow screen has room for it."""
    return alt.Legend(orient="bottom", direction="horizontal", columns=5)


def colours_of(field: str, colours: dict[str, str]) -> alt.Color:
    """Colours by the values of a field."""
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    return alt.Color(f"{field}:N", scale=scale, title=None, legend=legend())


def rounded(value: float) -> float:
    """Rounded, so that the page stays small."""
    return round(float(value), 4)


def or_none(value: float) -> float | None:
    """Rounded, or None where it is not known: a line breaks there."""
    return None if np.isnan(value) else rounded(value)
