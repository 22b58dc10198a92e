"""One node of a run: its telemetry over time, with what broke it, what showed beforehand, and what was foretold."""

from __future__ import annotations

from dataclasses import dataclass

from twin.record.over_time import Steps, steps_of, telemetry_over_time
from twin.record.query import Row, query
from twin.record.reader import RunRecord
from twin.record.schema import TABLES
from twin.record.telemetry_columns import TELEMETRY_NAMES

ROWS_MAX = 500


@dataclass(frozen=True, slots=True)
class NodeStory:
    """What there is of one node. Times are seconds on the run's clock."""

    node: str
    end_s: float
    step_s: float
    columns: dict[str, list[Row]]  # of each telemetry column that was read: `over_time.telemetry_over_time`
    faults: list[Row]  # {kind, from, to}
    signs: list[Row]  # {kind, from, to, due, outcome}
    incidents: list[Row]  # {diagnosis, from, to}
    actions: list[Row]  # {kind, at, reason}
    forecasts: list[Row] | None  # {at, failure, probability, lead_s, reasons}; None: the record has no such table


def readable_columns(record: RunRecord) -> dict[str, list[str]]:
    """For each node the telemetry columns of which anything was read, in the order of the record."""
    counts = ", ".join(f"count({name}) AS {name}" for name in TELEMETRY_NAMES)
    with query(record) as ask:
        rows = ask.rows(f"SELECT node, {counts} FROM telemetry GROUP BY node ORDER BY length(node), node")
    return {row["node"]: [name for name in TELEMETRY_NAMES if row[name]] for row in rows}


def node_story(record: RunRecord, node: str, columns: list[str]) -> NodeStory:
    """What there is of that node. Raises `RunUnreadable` where a file is damaged."""
    end_s = record.number("simulated_s")
    steps: Steps = steps_of(record)
    with query(record) as ask:
        return NodeStory(
            node=node,
            end_s=end_s,
            step_s=steps.width_s,
            columns={name: telemetry_over_time(ask, steps, node, name) for name in columns},
            faults=ask.rows(
                'SELECT kind, injected_s AS "from", coalesce(ended_s, $end_s) AS "to" FROM faults '
                f"WHERE node = $node ORDER BY injected_s LIMIT {ROWS_MAX}",
                node=node,
                end_s=end_s,
            ),
            signs=ask.rows(
                'SELECT kind, began_s AS "from", coalesce(ended_s, $end_s) AS "to", due_s AS due, outcome FROM signs '
                f"WHERE node = $node ORDER BY began_s LIMIT {ROWS_MAX}",
                node=node,
                end_s=end_s,
            ),
            incidents=ask.rows(
                'SELECT diagnosis, opened_s AS "from", coalesce(closed_s, $end_s) AS "to" FROM incidents '
                f"WHERE node = $node ORDER BY opened_s LIMIT {ROWS_MAX}",
                node=node,
                end_s=end_s,
            ),
            actions=ask.rows(
                f"SELECT kind, time_s AS at, reason FROM actions WHERE node = $node ORDER BY time_s LIMIT {ROWS_MAX}",
                node=node,
            ),
            forecasts=ask.rows(
                "SELECT time_s AS at, failure, probability, CASE WHEN isfinite(lead_s) THEN lead_s END AS lead_s, reasons "
                f"FROM forecasts WHERE node = $node ORDER BY time_s LIMIT {ROWS_MAX}",
                node=node,
            )
            if "forecasts" in TABLES
            else None,
        )
