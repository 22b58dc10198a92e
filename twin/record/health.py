"""What each node was, at every moment of a run, from what is in the record exactly: faults, incidents, actions.

(The column `health` of `telemetry` is what the policy took a node for when it was sampled; between two samples it is not
known, and a repair of three seconds may fall through.)

States, the first that holds:

- `restarting`: from the order of a restart until its result.
- `drained`: set aside, from a drain until the return.
- `incident`: from an incident's opening until it is verified; until the run's end where it never is.
- `proving`: verified, and until the incident is closed: it has to hold.
- `faulty`: a fault holds the node, and no incident is open: nobody has noticed, or it has been given up.
- `serving`: nothing of these.

Several gateways: a node is in the state that any of them has put it into.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from twin.record.reader import RunRecord
from twin.scenario.conditions import Part

NodeState: TypeAlias = Literal["restarting", "drained", "incident", "proving", "faulty", "serving"]
NODE_STATES: Final[tuple[NodeState, ...]] = get_args(NodeState)
NO_NODES: Final = frozenset(get_args(Part)) - {"node"}


@dataclass(frozen=True, slots=True)
class HealthInterval:
    """One node in one state, from `from_s` up to `to_s` (seconds on the run's clock)."""

    node: str
    from_s: float
    to_s: float
    state: NodeState


Span: TypeAlias = tuple[float, float, NodeState]


def health_intervals(record: RunRecord) -> list[HealthInterval]:
    """The states of every node, without a gap from 0 to the run's end; nodes in the order of their numbers, then by time."""
    end_s = record.number("simulated_s")
    spans: dict[str, list[Span]] = {name: [] for name in _nodes(record)}
    for fault in record.table("faults", ["node", "injected_s", "ended_s"]).to_pylist():
        if fault["node"] in spans:
            _add(spans, fault["node"], fault["injected_s"], fault["ended_s"], end_s, "faulty")
    for incident in record.table("incidents", ["node", "opened_s", "verified_s", "closed_s"]).to_pylist():
        node, verified_s = incident["node"], incident["verified_s"]
        _add(spans, node, incident["opened_s"], verified_s, end_s, "incident")
        if verified_s is not None:
            _add(spans, node, verified_s, incident["closed_s"], end_s, "proving")
    drained_s: dict[tuple[str, str], float] = {}
    actions = record.table("actions", ["time_s", "kind", "node", "result_s", "gateway"]).to_pylist()
    for action in sorted(actions, key=lambda it: it["time_s"]):
        by = (action["node"], action["gateway"])
        if action["kind"] == "restart":
            _add(spans, action["node"], action["time_s"], action["result_s"], end_s, "restarting")
        elif action["kind"] == "drain":
            drained_s.setdefault(by, action["time_s"])
        elif action["kind"] == "return" and by in drained_s:
            _add(spans, action["node"], drained_s.pop(by), action["time_s"], end_s, "drained")
    for (node, _), from_s in drained_s.items():
        _add(spans, node, from_s, None, end_s, "drained")
    return [interval for node, own in spans.items() for interval in _intervals(node, own, end_s)]


def _nodes(record: RunRecord) -> list[str]:
    """Every node that the record names, in the order of their numbers."""
    names: set[str] = set()
    for table in ("telemetry", "incidents", "actions", "faults", "requests"):
        names.update(record.table(table, ["node"])["node"].unique().to_pylist())
    return sorted((name for name in names if name and name not in NO_NODES), key=lambda name: (len(name), name))


def _add(
    spans: dict[str, list[Span]], node: str, from_s: float, to_s: float | None, end_s: float, state: NodeState
) -> None:
    """A span; where nothing ended it, up to the run's end."""
    last_s = end_s if to_s is None else min(to_s, end_s)
    if from_s < last_s:
        spans[node].append((from_s, last_s, state))


def _intervals(node: str, spans: list[Span], end_s: float) -> list[HealthInterval]:
    """Spans that may overlap as intervals that do not: of several the first in the order of `NODE_STATES`."""
    changes: list[tuple[float, int, NodeState]] = [(0.0, 0, "serving"), (end_s, 0, "serving")]
    for from_s, to_s, state in spans:
        changes += [(from_s, 1, state), (to_s, -1, state)]
    open_spans = dict.fromkeys(NODE_STATES, 0)
    found: list[HealthInterval] = []
    since_s = 0.0
    for time_s, more, changed in sorted(changes):
        if time_s > since_s:
            state = next((each for each in NODE_STATES if open_spans[each]), "serving")
            if found and found[-1].state == state:
                found[-1] = HealthInterval(node, found[-1].from_s, time_s, state)
            else:
                found.append(HealthInterval(node, since_s, time_s, state))
            since_s = time_s
        open_spans[changed] += more
    return found
