"""Tables on the terminal, and entries where a table could not be read."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from reports.tables import print_table


def printed(rows: list[dict[str, Any]], width: int = 80) -> list[str]:
    out = io.StringIO()
    print_table(rows, Console(file=out, width=width, highlight=False))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_numbers_stand_to_the_right_and_what_is_not_known_is_a_dash() -> None:
    assert printed([{"name": "one", "count": 12_345}, {"name": "two", "count": None}]) == [
        "name   count",
        "one   12,345",
        "two        -",
    ]


def test_rows_of_prose_become_entries_that_can_be_read() -> None:
    long = "a sentence that goes on and on until no column could hold it"
    lines = printed([{"kind": "crash", "id": "F06", "what": long, "symptom": long, "source": long, "live": ""}])
    assert lines[0] == "crash  F06"
    assert [line.split()[0] for line in lines[1:]] == ["what", "symptom", "source"]
    assert all(long in line for line in lines[1:])


def test_brackets_in_a_cell_are_text_and_no_markup() -> None:
    assert printed([{"what": "data: [DONE]"}]) == ["what", "data: [DONE]"]
