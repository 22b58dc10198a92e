"""Rows of plain data as a table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def print_table(rows: Sequence[dict[str, Any]], console: Console | None = None) -> None:
    """Print rows that have the same keys; numbers stand to the right."""
    console = console or Console(highlight=False)
    if not rows:
        console.print("nothing")
        return
    table = Table(box=None, pad_edge=False, header_style="bold", row_styles=["", "dim"])
    for name in rows[0]:
        number = all(isinstance(row[name], (int, float)) or row[name] is None for row in rows)
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    console.print(table)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
