"""A gate for a person at a terminal, and as JUnit's XML, which every CI server reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reports.terminal import STYLES
from reports.words import VERDICT_SIGNS, VERDICTS, number
from twin.errors import OperatorError

CHANGE_STYLES = {"worse": "bold red", "better": "green", "same": "dim", "not shown": "yellow"}
ORDER = ("worse", "better", "not shown", "same")


def print_gate(result: Mapping[str, Any], console: Console) -> None:
    """Print the object of `gate --json`: what got worse first, by how much, and how sure that is."""
    figures = sorted(result["figures"], key=lambda it: ORDER.index(it["verdict"]))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    together = f"{100 * result['level']:g} % together"
    for title in ("figure", "before", "now", "change", together, "matters from", ""):
        left = title in ("figure", "")
        table.add_column(title, justify="left" if left else "right", no_wrap=left, overflow="fold")
    for it in figures:
        table.add_row(
            f"{it['scenario']} {it['figure']}",
            _number(it["before"]),
            _number(it["now"]),
            _change(it["change"]),
            "–" if it["interval"] is None else f"{_change(it['interval'][0])} … {_change(it['interval'][1])}",
            number(it["threshold"]),
            Text(f"{it['verdict']}{'' if it['paired'] else ' *'}", style=CHANGE_STYLES[it["verdict"]]),
        )
    console.print(table)
    if not all(it["paired"] for it in figures):
        console.print(Text("* not on the same seeds, so not pair by pair", "dim"))
    for it in figures:
        if it["verdict"] in ("worse", "not shown"):
            console.print(Text(f"  {it['scenario']}: {it['figure']} {it['verdict']}: {it['reason']}"))
    for it in result["invariants"]:
        console.print(
            Text(
                f"✗ {it['scenario']}, seed {it['seed']}: invariant {it['invariant']} broken: {it['first']}",
                STYLES["fail"],
            )
        )
    for line in result["not_compared"]:
        console.print(Text(f"? not compared: {line}", style=STYLES["unknown"]))
    verdict = result["verdict"]
    said = f"{result['worse']} of {len(figures)} figures worse, {len(result['invariants'])} invariants broken"
    console.print(
        Text(f"{VERDICT_SIGNS[verdict]} {VERDICTS[verdict]}. ", STYLES[verdict]).append(said, "default not bold")
    )


def _number(value: float | None) -> str:
    return "–" if value is None else number(value)


def _change(value: float | None) -> str:
    if value is None:
        return "–"
    return "0" if value == 0 else f"{'+' if value > 0 else '−'}{number(abs(value))}"


def sentence(it: Mapping[str, Any]) -> str:
    """One figure in one line."""
    ends = it["interval"]
    wide = f", interval {_change(ends[0])} to {_change(ends[1])}" if ends else ""
    return (
        f"{it['scenario']}: {it['figure']} was {_number(it['before'])}, is {_number(it['now'])} "
        f"(change {_change(it['change'])}{wide}; matters from {number(it['threshold'])}): {it['verdict']}, {it['reason']}"
    )


def write_junit(result: Mapping[str, Any], path: Path) -> None:
    """A test case for each figure and each broken invariant; what was not compared is skipped. Raises `OperatorError`."""
    suite = ElementTree.Element("testsuite", name="ollamamax gate")
    failures = skipped = 0
    for it in result["figures"]:
        case = ElementTree.SubElement(suite, "testcase", classname=it["scenario"], name=it["figure"])
        if it["verdict"] == "worse":
            failures += 1
            ElementTree.SubElement(case, "failure", message=sentence(it), type="worse")
        else:
            ElementTree.SubElement(case, "system-out").text = sentence(it)
    for it in result["invariants"]:
        failures += 1
        case = ElementTree.SubElement(
            suite, "testcase", classname=it["scenario"], name=f"{it['invariant']} (seed {it['seed']})"
        )
        ElementTree.SubElement(
            case, "failure", message=f"{it['violations']} violations: {it['first']}", type="invariant"
        )
    for line in result["not_compared"]:
        skipped += 1
        case = ElementTree.SubElement(suite, "testcase", classname="not compared", name=line)
        ElementTree.SubElement(case, "skipped", message=line)
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(failures))
    suite.set("skipped", str(skipped))
    ElementTree.indent(suite)
    try:
        ElementTree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise OperatorError(f"--junit {path}: {error.strerror}; name a file that can be written") from error
