"""The table of drills for people: in a terminal, and as a page of the docs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from live.rig.cluster import NodeKind
from twin.scenario.loader import load
from twin.scenario.schema import Limit

TITLES = {
    "drill": "drill",
    "runs": "runs",
    "admitted": "admitted",
    "rejected": "rejected",
    "failed_attempts": "failed attempts",
    "lost": "lost",
    "ttm_s": "TTM s",
    "p95_fault_to_quiet": "p95 in the fault's window to quiet row",
    "verdict": "verdict",
    "missed": "missed",
}
"""The columns of the page, by the key of a row."""


def as_table(rows: Sequence[Mapping[str, Any]], nodes: NodeKind) -> Table:
    """All columns, for a terminal."""
    table = Table(title=f"four {nodes} nodes, 8 requests/s, 70 % streams; median (worst) of the runs")
    names = [name for name in rows[0] if name != "tolerance_costs"] if rows else []
    for name in names:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(cell(row[name]) for name in names))
    return table


def as_markdown(
    rows: Sequence[Mapping[str, Any]], nodes: NodeKind, files: Mapping[str, Path], command: str, p95_ratio_max: float
) -> str:
    """A page with each drill's aims beside what came of it."""
    drill, *others = TITLES.values()
    titles = [drill, "aims", *others]
    parts = [
        "# Drills, as measured",
        "",
        f"`{command}`: four {nodes} nodes, 8 requests/s, 70 % streams. Lost, TTM and the ratio are the median of the runs, "
        "with the worst run in brackets; a row passes where every run kept every aim, and the median of the ratio is at "
        f"most {p95_ratio_max:g}. Failed attempts: what the drill struck, and was done again or went on elsewhere. "
        "Lost: admitted, and not answered well to the end. TTM: from the fault until attempts fail no more for it; – where "
        "none had failed. [What each drill does](operations.md#drills-on-your-own-nodes).",
        "",
        "| " + " | ".join(titles) + " |",
        "|---" * len(titles) + "|",
    ]
    for row in rows:
        cells = ["–" if (text := cell(row[key])) == "-" else text for key in TITLES]
        parts.append("| " + " | ".join([cells[0], aims_of(files[row["drill"]]), *cells[1:]]) + " |")
    costs = [said_of(row["tolerance_costs"]) for row in rows if row.get("tolerance_costs")]
    if costs:
        parts += ["", *(f"On the quiet row, {line}." for line in costs)]
    return "\n".join(parts) + "\n"


def aims_of(file: Path) -> str:
    """What the scenario of a drill expects, in words."""
    return ", ".join(f"{name} {_between(limit)}" for name, limit in load(file, []).expect.items())


def _between(limit: Limit) -> str:
    return " and ".join(
        f"{sign} {bound:g}" for sign, bound in (("≥", limit.min), ("≤", limit.max)) if bound is not None
    )


def said_of(cost: Mapping[str, Any]) -> str:
    """What tolerance costs, as a line to read."""
    between = "no interval from one run"
    if cost["ci95"] is not None:
        between = f"95 % interval {100 * cost['ci95'][0]:.2f} to {100 * cost['ci95'][1]:.2f} %"
    return (
        f"fault tolerance costs {100 * cost['mean']:.2f} % of the mean latency ({between}), on the same arrivals with the"
        f" same router, {cost['runs']} pairs; aim below {100 * cost['max']:g} %: {cost['verdict']}"
    )


def cell(value: object) -> str:
    """A value of a row, short."""
    if isinstance(value, dict):
        return f"{value['median']:.3g} ({value['worst']:.3g})"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list) and value:
        return ", ".join(str(each) for each in value)
    return "-" if value is None or value == [] else str(value)
