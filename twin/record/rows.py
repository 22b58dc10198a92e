"""Rows that both worlds write alike, in the order of the schema."""

from __future__ import annotations

from twin.policy.forecast import Forecast
from twin.policy.vocabulary import Incident

FIRST_GATEWAY = "gateway-0"
"""Its name where there is no other."""


def incident_row(incident: Incident, gateway: str = FIRST_GATEWAY) -> tuple[object, ...]:
    """A row of the table `incidents`."""
    return (
        incident.incident_id,
        incident.node,
        incident.diagnosis,
        incident.evidence,
        incident.opened_s,
        incident.state,
        incident.verified_s,
        incident.closed_s,
        incident.actions,
        gateway,
    )


def forecast_row(time_s: float, forecast: Forecast, gateway: str = FIRST_GATEWAY) -> tuple[object, ...]:
    """A row of the table `forecasts`."""
    return (
        time_s,
        forecast.node,
        forecast.failure,
        forecast.probability,
        forecast.horizon_s,
        forecast.lead_s,
        "; ".join(forecast.reasons),
        gateway,
    )
