"""A calibrated profile, and the twin beside live runs, for a person at a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from reports.tables import print_table
from reports.terminal import STYLES
from reports.words import VERDICT_SIGNS, VERDICTS, number

WIDTH_MIN = 110
"""A row of the comparison is that wide."""


def print_profile(profile: Mapping[str, Any], console: Console) -> None:
    """Print what was measured, with intervals, and what was not covered."""
    measured = profile["measured"]
    console.print(Text(f"{profile['name']}: {measured['requests']:,} requests of {len(profile['runs'])} runs", "bold"))
    print_table(_measured(profile), console)
    for line in profile["not_covered"]:
        console.print(Text(f"? not covered: {line}", style=STYLES["unknown"]))


def _measured(profile: Mapping[str, Any]) -> list[dict[str, str]]:
    measured = profile["measured"]
    rows = [
        {"measured": f"decode step, {place + 1} in the batch (ms)", **_with_ends(it)}
        for place, it in enumerate(measured["decode_ms"])
    ]
    names = {
        "prefill_us_per_token": "prefill (µs a token)",
        "prefill_growth_us": "what a token takes longer for each token before it (µs)",
        "server_ms": "server, for a request (ms)",
        "server_cv": "spread of that and of what it waits for to join (coefficient of variation)",
        "joining_ms": "beyond that, to join a batch at work (ms)",
        "joining_steps": "steps that a request waits for to join a batch",
        "beside_prompt_steps": "steps that it goes on for while a prompt that joined is evaluated",
        "room": "nodes at full speed on one processor",
        "gateway_and_network_ms": "gateway and network (ms)",
    }
    rows += [{"measured": said, **_with_ends(measured[key][0])} for key, said in names.items()]
    for key, said in {"cold_s": "cold load (s)", "warm_s": "warm load (s)", "restart_s": "restart (s)"}.items():
        rows.append({"measured": said, **_with_range(measured[key])})
    rows += [
        {"measured": f"detection of {kind} (s)", **_with_range(it)} for kind, it in measured["detection_s"].items()
    ]
    return rows


def _with_ends(it: Mapping[str, Any]) -> dict[str, str]:
    low, high = it["ci95"]
    return {"value": _text(it["value"]), "95 % interval or range": f"{_text(low)} … {_text(high)}", "n": ""}


def _with_range(it: Mapping[str, Any]) -> dict[str, str]:
    ends = it["range"]
    return {
        "value": _text(it["median"]),
        "95 % interval or range": f"{_text(ends[0])} … {_text(ends[1])}" if ends else "–",
        "n": str(it["n"]),
    }


def _text(value: float | None) -> str:
    return "–" if value is None else number(value)


def print_fidelity(result: Mapping[str, Any], console: Console) -> None:
    """Print the object of `fidelity --json`."""
    console = Console(file=console.file, width=max(console.width, WIDTH_MIN), highlight=False)
    runs = f"{result['live_runs']} live runs, {result['twin_runs']} twin runs"
    console.print(Text(f"{result['scenario']}, profile {result['profile']}: {runs}", "bold"))
    print_table(_rows(result), console)
    for it in result["ranks"]:
        console.print(
            f"order of {len(it['policies'])} policies by {it['figure']}: "
            f"Kendall's tau {_text(it['tau'])} ({it['pairs']} pairs)"
        )
    console.print(_speed(result))
    for line in result["drift"]:
        console.print(Text(f"✗ drifted: {line}", style=STYLES["fail"]))
    for line in result["notes"]:
        console.print(Text(f"? {line}", style=STYLES["unknown"]))
    verdict = result["verdict"]
    console.print(
        Text(f"{VERDICT_SIGNS[verdict]} {VERDICTS[verdict]}. ", STYLES[verdict]).append(result["reason"], "default")
    )


def _rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for it in result["figures"]:
        twin = it["twin"]
        ends = twin["ci95"]
        rows.append(
            {
                "figure": it["figure"],
                "live": _text(it["live"]["mean"]),
                "spread": _text(it["live"]["spread"]),
                "twin": _text(twin["mean"]),
                "95 % interval": f"{_text(ends[0])} … {_text(ends[1])}" if ends else "–",
                "error (each run)": _judged(it),
                "at own speed (each run)": _judged(it["own_speed"]),
            }
        )
    return rows


def _judged(it: Mapping[str, Any]) -> str:
    if it["error_share"] is None:
        return str(it["verdict"])
    each = ", ".join("–" if share is None else f"{100 * share:+.0f}" for share in it["each_run"])
    return f"{100 * it['error_share']:+.1f} % ({each}), {it['verdict']}"


def _speed(result: Mapping[str, Any]) -> str:
    takes = ", ".join(f"{times:.3f}" for times in result["decoding_takes"])
    return f"In these live runs decoding took {takes} times as long as in the profile; at own speed: in the twin, too."


def as_markdown(document: Mapping[str, Any], command: str) -> str:
    """The table of `ollamamax fidelity --all` as a page of Markdown."""
    profile = document["profile"]
    machine = profile["machine"]
    whole = "" if document["complete"] else " **Not complete: more cases are to come.**"
    lines = [
        "# Twin beside live, as measured",
        "",
        f"`{command}`, version {profile['version']}, {machine.get('cores', '?')} cores, Python {machine.get('python', '?')}."
        f"{whole} [What the columns mean](fidelity.md).",
        "",
        "## The profile",
        "",
        f"{profile['measured']['requests']:,} requests; the nodes carry "
        f"{_text(profile['measured']['capacity_rps'])} requests/s.",
        "",
        "| measured | value | 95 % interval or range | n |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['measured']} | {row['value']} | {row['95 % interval or range']} | {row['n']} |"
        for row in _measured(profile)
    ]
    lines += [f"\nNot covered: {line}." for line in profile["not_covered"]]
    for case in document["cases"]:
        result = case["result"]
        verdict = VERDICTS[result["verdict"]].lower()
        lines += [
            "",
            f"## {case['says']}: {verdict}",
            "",
            f"{case['rate_rps']:.3g} requests/s; {result['live_runs']} live runs, {result['twin_runs']} twin runs.",
            "",
            _speed(result),
            "",
            "| figure | live | its own spread | twin | 95 % interval | error (each run) | at own speed (each run) |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [f"| {' | '.join(row.values())} |" for row in _rows(result)]
        lines += [
            f"\nOrder of {', '.join(it['policies'])} by {it['figure']}: live {_list(it['live'])}, twin {_list(it['twin'])}; "
            f"Kendall's tau {_text(it['tau'])} over the {it['pairs']} pairs that live runs can tell apart."
            for it in result["ranks"]
        ]
        lines += [f"\nDrifted: {line}." for line in result["drift"]]
        lines += [f"\nNote: {line}." for line in result["notes"]]
    return "\n".join(lines) + "\n"


def _list(values: Sequence[float]) -> str:
    return ", ".join(_text(value) for value in values)
