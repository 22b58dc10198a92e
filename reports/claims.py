"""The seven promises for a person at a terminal, and as a table for a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from reports.terminal import STYLES
from reports.words import VERDICT_SIGNS, VERDICTS, number
from twin.experiment.claims.measures import ENDLESS

TITLES = ("measured", "policy", "value", "95 % interval", "n", "limit", "")


def print_promise(promise: Mapping[str, Any], console: Console) -> None:
    """Print one promise with its rows."""
    verdict = promise["verdict"]
    head = Text(f"\n{promise['number']}  {promise['promised']}. ", style="bold")
    console.print(head.append(f"{VERDICT_SIGNS[verdict]} {VERDICTS[verdict]}", STYLES[verdict]))
    if promise["note"]:
        console.print(Text(f"   {promise['note']}"))
    whats = list(dict.fromkeys(it["what"] for it in promise["rows"]))
    for what in whats:
        console.print(Text(f"   {what}"), soft_wrap=True)
        for it in promise["rows"]:
            if it["what"] == what:
                console.print(_line(it), soft_wrap=True)
    for note in dict.fromkeys(it["note"] for it in promise["rows"] if it["note"]):
        console.print(Text(f"   {note}", "dim"))
    console.print(Text(f"   again: {promise['again']}", "dim"))


def _line(it: Mapping[str, Any]) -> Text:
    _, policy, value, ends, n, limit = _cells(it)
    verdict = it["verdict"]
    style = "dim" if it["policy"] != "default" else "default"
    line = Text(f"     {policy:<18}{value:>9}  {ends:>20}  n {n:>7}  {limit:<26}", style)
    return line.append(f"{VERDICT_SIGNS[verdict]} {verdict}" if verdict else "", STYLES[verdict] if verdict else "")


def print_overall(document: Mapping[str, Any], console: Console) -> None:
    """Print the last line: how many promises are kept."""
    verdicts = [it["verdict"] for it in document["promises"]]
    said = ", ".join(f"{verdicts.count(key)} {VERDICTS[key].lower()}" for key in VERDICTS)
    verdict = document["verdict"]
    line = Text(f"\n{VERDICT_SIGNS[verdict]} {VERDICTS[verdict]}. ", STYLES[verdict])
    console.print(line.append(f"{len(verdicts)} promises: {said} ({document['world']} world)", "default not bold"))


def _cells(it: Mapping[str, Any]) -> list[str]:
    unit = it["unit"] if it["unit"] in ("s", "ms") else ""
    return [
        f"{it['what']}",
        it["policy"],
        _number(it["value"], unit, "∞" if it["note"] == ENDLESS else "–"),
        "–" if it["interval"] is None else " … ".join(_number(end, "", "∞") for end in it["interval"]),
        f"{it['n']:,}",
        f"{_limit(it['limit'], unit)}{', own aim' if it['kind'] == 'own' else ''}" if it["limit"] else "",
    ]


def _number(value: float | None, unit: str, none: str = "–") -> str:
    return none if value is None else f"{number(value)} {unit}".rstrip()


def _limit(limit: Mapping[str, float], unit: str) -> str:
    words = {"max": "at most", "min": "at least"}
    return ", ".join(f"{words[key]} {_number(value, unit)}" for key, value in limit.items())


def as_markdown(document: Mapping[str, Any]) -> str:
    """A page with a table for each promise."""
    parts = [
        "# The promises, as measured",
        "",
        f"`ollamamax claims`, {document['world']} world, version {document['version']}. "
        "[What the columns mean](claims.md).",
        "",
    ]
    for promise in document["promises"]:
        verdict = promise["verdict"]
        parts += [
            f"### {promise['number']}. {promise['promised']}: {VERDICTS[verdict].lower()}",
            "",
            f"`{promise['again']}`" + (f" ({promise['note']})" if promise["note"] else ""),
            "",
            "| " + " | ".join([*TITLES[:-1], "verdict"]) + " |",
            "|---" * len(TITLES) + "|",
        ]
        parts += [_markdown_row(it) for it in promise["rows"]]
        notes: Sequence[str] = list(dict.fromkeys(it["note"] for it in promise["rows"] if it["note"]))
        parts += ["", *notes, ""] if notes else [""]
    return "\n".join(parts).rstrip() + "\n"


def _markdown_row(it: Mapping[str, Any]) -> str:
    return "| " + " | ".join([*_cells(it), it["verdict"] or ""]) + " |"
