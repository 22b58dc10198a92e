"""Rows of plain data as a table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

PROSE_NEEDS = 30
"""Columns of the terminal in which prose can be read."""

PROSE = 48
"""A column with longer text than this is prose; a table of several such columns cannot be read on a terminal."""


def print_table(rows: Sequence[dict[str, Any]], console: Console | None = None) -> None:
    """Print rows that have the same keys; numbers stand to the right. Rows that are mostly prose, or
    for which the terminal is too narrow, become entries."""
    console = console or Console(highlight=False)
    if not rows:
        console.print("nothing")
        return
    longest = [max(len(_text(row[name])) for row in rows) for name in rows[0]]
    prose = [length for length in longest if length > PROSE]
    needed = sum(min(length, PROSE_NEEDS) if length > PROSE else length + 1 for length in longest)
    if len(prose) > 2 or (prose and needed > console.width):
        _print_entries(rows, console)
        return
    table = Table(box=None, pad_edge=False, header_style="bold", row_styles=["", "dim"])
    for place, name in enumerate(rows[0]):
        number = all(isinstance(row[name], (int, float)) or row[name] is None for row in rows)
        # What a row is called is copied from the screen: it stays in one piece, unless it is a sentence.
        in_one_piece = not place and longest[0] <= PROSE
        table.add_column(name, justify="right" if number else "left", overflow="fold", no_wrap=in_one_piece)
    for row in rows:
        table.add_row(*(escape(_text(value)) for value in row.values()))
    console.print(table)


def _print_entries(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Each row a headline of its short values that every row has, and a line for each of the others."""
    names = list(rows[0])
    longest = {name: max(len(_text(row[name])) for row in rows) for name in names}
    heads = [name for name in names[:2] if longest[name] <= PROSE]
    for row in rows:
        console.print("  ".join(f"[bold]{escape(_text(row[name]))}[/bold]" for name in heads))
        entry = Table(box=None, show_header=False, padding=(0, 1, 0, 2))
        entry.add_column(style="dim", no_wrap=True)
        entry.add_column(overflow="fold")
        for name in names:
            if name not in heads and row[name] not in (None, ""):
                entry.add_row(name, escape(_text(row[name])))
        console.print(entry)


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
