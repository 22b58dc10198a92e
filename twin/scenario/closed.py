"""What every part of a scenario is: data that knows its keys, refuses others, and does not change."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Closed(BaseModel):
    """A mapping with a closed vocabulary."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
