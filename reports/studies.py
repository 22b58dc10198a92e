"""A sweep or a comparison for a person at a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reports.terminal import STYLES
from reports.words import VERDICT_SIGNS, ci95, figure
from twin.record.names import BETTER

USUAL = ("requests_lost", "ttr_s", "e2e_s.p95")
PAIR_STYLES = {"better": "green", "worse": "red"}


def print_study(study: Mapping[str, Any], console: Console) -> None:
    """Print what `study.json` says: the points with their intervals, the best of them marked, and the pairs."""
    console.print(Text(f"\n{study['claim']}", style="bold"))
    runs = _many(sum(point["n"] for point in study["points"]), "run")
    console.print(
        Text(f"{study['scenario']}, {study['kind']}, {runs} at {_many(len(study['points']), 'point')}, seeds from ")
        + Text(str(study["seed"])),
        style="dim",
    )
    console.print()
    console.print(_points(study))
    if study["pairs"]:
        console.print()
        console.print(_pairs(study["pairs"]))
        console.print(
            Text(
                "Differences are variant - baseline on the same seeds. p is corrected for all of them (Holm), and the "
                "verdict goes by it; each interval is that of its difference alone.",
                "dim",
            )
        )
        for pair in study["pairs"]:
            if any(pair["censored"].values()):
                missed = pair["censored"]
                console.print(
                    Text(
                        f"  {pair['figure']}: not seen to the end in {missed['baseline']} runs of the baseline and "
                        f"{missed['variant']} of the variant; judged by a sign test over all pairs, not by the mean"
                    )
                )
    for note in study["notes"]:
        console.print(Text(f"  {note}"))
    until = study.get("until")
    if until:
        width = f"{100 * until['half_width']:g} %" if until["relative"] else f"{until['half_width']:g}"
        reached = "reached" if until["reached"] else "not reached"
        console.print(Text(f"half width of {until['figure']} within {width}: {reached}, n = {study['replications']}"))
    if study["stopped"]:
        console.print(Text(f"? Not complete: {study['stopped']}", style=STYLES["unknown"]))


def print_soak(found: Mapping[str, Any], program: str, console: Console) -> None:
    """Print what `soak --json` prints: what was broken and how to see it again, what was reached, how long it took."""
    runs = found["runs"]
    console.print(Text(f"\n{found['scenario']}, {found['mode']}: {found['seeds']:,} seeds", style="bold"))
    console.print(
        f"{runs['faults']:,} faults, {runs['requests']:,} requests, {runs['simulated_h']:,.1f} simulated hours in "
        f"{found['wall_s']:,.1f} s; 10,000 seeds would take {found['wall_s_for_10000'] or 0:,.0f} s"
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("reached at least once", "", "in seeds"):
        table.add_column(title, justify="right" if title == "in seeds" else "left", overflow="fold")
    for each in found["reached"]:
        seeds_said = f"{each['seeds']:,}" if each["seeds"] else "never reached"
        table.add_row(each["name"], each["what"], seeds_said, style="" if each["seeds"] else "yellow")
    console.print()
    console.print(table)
    console.print()
    if found["never_reached"]:
        never = ", ".join(found["never_reached"])
        more = "" if found["scenario"] == "harsh-soak" else " scenarios/harsh-soak.yaml reaches more."
        console.print(
            Text(
                f"? Never reached, so nothing is known of it here: {never}.{more}",
                "yellow",
            )
        )
    for broken in found["broken"]:
        seeds = broken["seeds"]
        console.print(Text(f"✗ {broken['invariant']}: broken by {_many(len(seeds), 'seed')}", style=STYLES["fail"]))
        console.print(Text(f"  seed {seeds[0]}, {broken['first']}"))
        if broken["file"]:
            console.print(
                Text(
                    f"  shrunk to {_many(broken['faults'], 'fault')} in {broken['runs_to_shrink']} runs; see it again:"
                )
            )
            console.print(f"  {program} run {broken['file']}", soft_wrap=True)
        else:
            console.print(Text(f"  not shrunk: {broken['why_not']}"))
    if not found["broken"]:
        console.print(Text(f"✓ All {len(found['invariants'])} invariants held.", style="green"))
    console.print(f"\nresults {found['folder']}", soft_wrap=True)


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _points(study: Mapping[str, Any]) -> Table:
    points = study["points"]
    expected = [each["name"] for each in points[0]["expectations"] if each["name"] in BETTER]
    names = list(dict.fromkeys([*expected, *USUAL]))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for key in study["vary"]:
        table.add_column(key, overflow="fold")
    for title in ("n", "verdict", *names):
        table.add_column(title, overflow="fold")
    for place, point in enumerate(points):
        cells: list[str | Text] = [_value(value) for value in point["settings"].values()]
        best = study["best"] is not None and point["settings"] == study["best"]
        sign = Text(f"{VERDICT_SIGNS[point['verdict']]} {point['verdict']}", style=STYLES[point["verdict"]])
        if best:
            sign.append(" ← best", style="bold")
        elif study["kind"] == "compare" and not place:
            sign.append(" baseline", style="dim")
        cells += [str(point["n"]), sign]
        cells += [_figure(point, name) for name in names]
        table.add_row(*cells)
    return table


def _figure(point: Mapping[str, Any], name: str) -> str:
    """A mean with its interval; of a recovery the share that was observed, where it is not all."""
    value: Any = point["figures"]
    for step in name.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    said = figure(name, value.get("mean")) if isinstance(value, Mapping) else figure(name, value)
    bounds = ci95(value.get("ci95"), name) if isinstance(value, Mapping) and value.get("ci95") else ""
    said = f"{said} [{bounds}]" if bounds else said
    times = point["recovery"].get(name)
    if times and times["censored"]:
        said += f" ({times['n'] - times['censored']} of {times['n']} seen)"
    return said


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("variant", "figure", "difference", "95 % CI", "n", "p", ""):
        table.add_column(title, overflow="fold")
    for pair in pairs:
        difference = pair["difference"]
        name = pair["figure"]
        p = pair["p_adjusted"]
        table.add_row(
            ", ".join(f"{key}={_value(value)}" for key, value in pair["variant"].items()),
            name,
            _difference(pair),
            ci95(difference["ci95"], name) if difference and difference["ci95"] else "–",
            str(difference["n"]) if difference else "0",
            "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
            Text(pair["verdict"], style=PAIR_STYLES.get(pair["verdict"], "dim")),
        )
    return table


def _difference(pair: Mapping[str, Any]) -> str:
    """The mean of the differences; where something was not observed to its end, that it leaves these pairs out."""
    if not pair["difference"]:
        return "–"
    said = figure(pair["figure"], pair["difference"]["mean"])
    return f"{said} (only of pairs seen to the end)" if any(pair["censored"].values()) else said


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
