"""Replay of recorded requests: which file, and what is done to its times and rate. `trace_files.py` reads it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.closed import Closed


class TraceArrivals(Closed):
    """Requests as they were recorded, in the format of Azure (CSV), Mooncake (JSON lines) or one's own CSV; `.gz` or
    not. What a trace does not say (model, streaming, num_ctx) is drawn as for other arrivals. Times count from the
    trace's first request. After its last one nothing more arrives."""

    kind: Literal["trace"]
    file: Annotated[
        str, Field(min_length=1, description="Relative to the scenario's file; in --set, to where you are.")
    ]
    sha256: Annotated[str | None, Field(description="Of the file; filled in when the scenario is loaded.")] = None
    source: Annotated[str, Field(description="Where to get the file; said when it is not there.")] = ""
    time_scale: Annotated[float, Field(gt=0, description="Times are multiplied by this: 0.5 is twice as fast.")] = 1.0
    rate_scale: Annotated[
        float,
        Field(
            gt=0,
            le=1000,
            description="Requests are multiplied by this: below 1 each is kept with this chance; above, copies of the "
            "trace, shifted round by equal parts of its length, are laid over it and thinned to the rest.",
        ),
    ] = 1.0
    from_s: Annotated[float, Field(ge=0, description="Leave out what came before, in the trace's own time.")] = 0.0
    limit: Annotated[int | None, Field(ge=1, description="Only so many requests, before any scaling of the rate.")] = (
        None
    )
