"""The result of a run for a person at a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from reports.words import (
    GROUPS,
    LABELS,
    NOT_OBSERVED,
    VERDICT_SIGNS,
    VERDICTS,
    ci95,
    figure,
    limit,
    notes,
    number,
    run_again,
    verdict_sentence,
)
from twin.record.names import SUMMARIES, SUMMARY_KEYS

STYLES = {"pass": "bold green", "fail": "bold red", "unknown": "bold yellow"}
WIDTH_MAX = 100


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Print the object of `run --json`, of one run or of several: verdict, expectations, figures, invariants."""
    width = min(console.width, WIDTH_MAX)

    def show(what: Any) -> None:
        console.print(what, width=width, highlight=False)

    verdict = summary["verdict"]
    show("")
    if summary.get("claim"):
        show(Text(str(summary["claim"]), style="bold"))
    head = Text(f"{VERDICT_SIGNS[verdict]} {VERDICTS[verdict]}. ", style=STYLES[verdict])
    show(head.append(verdict_sentence(summary), style="default not bold"))
    for note in notes(summary):
        show(Text(f"  {note}"))
    show(Text(_what_ran(summary), style="dim"))
    if summary["expectations"]:
        show("")
        show(_expectations(summary))
    for group, names in GROUPS.items():
        show("")
        show(Text(group, style="bold"))
        show(Padding(_figures(summary["figures"], names), (0, 0, 0, 2)))
    show("")
    show(_invariants(summary["invariants"]))
    digest = summary["figures"].get("record_digest")
    if isinstance(digest, str):
        show(Text(f"Record {digest[:16]}", style="dim"))
    show(Text(f"Again: {run_again(summary)}", style="dim"))
    folders = summary.get("run_dirs") or []
    if folders:
        more = f" and {len(folders) - 1} more" if len(folders) > 1 else ""
        show(Text(f"Written to {folders[0]}{more}", style="dim"))


def _what_ran(summary: Mapping[str, Any]) -> str:
    runs = summary["replications"]
    many = f"{runs} replications from seed {summary['seed']}" if runs != 1 else f"seed {summary['seed']}"
    return f"{summary['scenario']}, {summary['world']}, {many}"


def _expectations(summary: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    several = summary["replications"] > 1
    for title in (
        "Expected",
        "Limit",
        "Mean" if several else "Measured",
        *(["95 % CI", "Worst"] if several else []),
        "",
    ):
        table.add_column(title, overflow="fold")
    for each in summary["expectations"]:
        value = each["value"]
        if isinstance(value, Mapping):
            value = value.get("mean")
        cells = [each["name"], limit(each["limit"], each["name"]), figure(each["name"], value)]
        said = f"{VERDICT_SIGNS[each['verdict']]} {each['verdict']}"
        if several:
            cells += [ci95(each.get("ci95"), each["name"]), figure(each["name"], each.get("worst"))]
            said += f" ({each['kept']}/{summary['replications']})" if "kept" in each else ""
        sign = Text(said, style=STYLES[each["verdict"]])
        table.add_row(*cells, sign)
    return table


def _figures(figures: Mapping[str, Any], names: tuple[str, ...]) -> Table:
    table = Table.grid(padding=(0, 3, 0, 0))
    summaries = [name for name in names if name in SUMMARIES]
    if summaries:
        table.add_column(min_width=26)
        for _ in SUMMARY_KEYS:
            table.add_column(justify="right")
        table.add_row("", *(Text(key, style="dim") for key in SUMMARY_KEYS))
        for name in summaries:
            value = figures.get(name) or {}
            parts = (_mean(value.get(key)) for key in SUMMARY_KEYS)
            table.add_row(LABELS[name], *(_quiet(figure(f"{name}.p50", part)) for part in parts))
        return table
    table.add_column(min_width=26)
    table.add_column(overflow="fold")
    for name in names:
        indent = "  " if LABELS[name][0].islower() else ""
        table.add_row(indent + LABELS[name], _quiet(figure(name, figures.get(name))))
    return table


def _mean(value: Any) -> Any:
    return value.get("mean") if isinstance(value, Mapping) else value


def _quiet(words: str) -> Text:
    return Text("–", style="dim") if words == NOT_OBSERVED else Text(words)


def _invariants(invariants: Mapping[str, Any]) -> Text:
    broken = {name: count for name, count in invariants.items() if count}
    if broken:
        said = ", ".join(f"{name} ({number(count)})" for name, count in broken.items())
        return Text(f"✗ Invariants broken: {said}", style=STYLES["fail"])
    if not invariants:
        return Text("No invariant was checked.", style="dim")
    return Text(f"✓ All {len(invariants)} invariants held.", style="green")
