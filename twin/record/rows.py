"""Rows that both worlds write alike, in the order of the schema."""

from __future__ import annotations

from twin.policy.vocabulary import Incident


def incident_row(incident: Incident) -> tuple[object, ...]:
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
    )
