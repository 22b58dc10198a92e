"""How figures are said: numbers with their units, limits, intervals, verdicts. Used by every report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twin.record.names import FIGURES, SUMMARY_KEYS

NOT_OBSERVED = "not observed"

LABELS: dict[str, str] = {
    "requests_offered": "Requests offered",
    "requests_admitted": "admitted",
    "requests_rejected": "rejected",
    "requests_succeeded": "succeeded",
    "requests_lost": "lost",
    "answers_wrong": "answered wrongly",
    "requests_cancelled": "given up by their client",
    "success_ratio": "Success ratio",
    "attempts_per_request": "Attempts per request",
    "tokens_generated": "Tokens generated",
    "ttd_s": "Time to detection (TTD)",
    "ttm_s": "Time to mitigation (TTM)",
    "ttr_s": "Time to recovery (TTR)",
    "incidents": "Incidents",
    "incidents_healed": "healed",
    "actions": "Actions",
    "false_actions": "False actions",
    "faults_foretold": "Failures foretold",
    "false_warnings": "False warnings",
    "ttft_s": "Time to first token",
    "e2e_s": "Arrival to end",
    "queue_wait_s": "Wait in queues",
    "simulated_s": "Length of the run",
    "events": "Events of the simulator",
    "events_per_request": "Events per request",
    "wall_s": "Time on the wall clock",
}
GROUPS: dict[str, tuple[str, ...]] = {
    "Requests": (
        "requests_offered",
        "requests_admitted",
        "requests_rejected",
        "requests_succeeded",
        "requests_lost",
        "answers_wrong",
        "requests_cancelled",
        "success_ratio",
        "attempts_per_request",
        "tokens_generated",
    ),
    "Failures": (
        "ttd_s",
        "ttm_s",
        "ttr_s",
        "incidents",
        "incidents_healed",
        "actions",
        "false_actions",
        "faults_foretold",
        "false_warnings",
    ),
    "Latency": ("ttft_s", "e2e_s", "queue_wait_s"),
    "The run": ("simulated_s", "wall_s", "events", "events_per_request"),
}
"""The figures in the order in which they are shown."""

MS_BELOW_S = 0.1
MS_LEAST = 0.1

VERDICTS = {"pass": "Pass", "fail": "Fail", "unknown": "Unknown"}
VERDICT_SIGNS = {"pass": "✓", "fail": "✗", "unknown": "?"}


def number(value: float) -> str:
    """A number as a person writes it: whole ones with separators, others to three significant digits."""
    if float(value).is_integer():
        return f"{int(value):,}"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if 0.99 <= size < 1:
        # The nines of a ratio are what it is about, and must not be rounded up to a whole 1.
        return f"{value:.5f}".rstrip("0") if size < 0.999995 else f"{value:.9f}".rstrip("0")
    if size < 0.001:
        return f"{value:.2e}"
    digits = max(0, 2 - _magnitude(size))
    return f"{value:.{digits}f}"


def seconds(value_s: float) -> str:
    """A time in words: below a tenth of a second in milliseconds, of which a tenth is the least that is told apart."""
    if value_s and abs(value_s) < MS_LEAST / 1000.0:
        return f"< {MS_LEAST:g} ms" if value_s > 0 else f"> -{MS_LEAST:g} ms"
    if value_s and abs(value_s) < MS_BELOW_S:
        return f"{round(1000.0 * value_s, 1):g} ms"
    return f"{number(round(value_s, 3))} s"


def with_unit(value: float, unit: str) -> str:
    """The number and its unit; units of counted things are left to the label."""
    return seconds(value) if unit == "s" else number(value)


def figure(name: str, value: Any) -> str:
    """One figure in words. It may be a number, None, a mean with its interval, counts by kind, or a summary."""
    unit = FIGURES.get(name.split(".", maxsplit=1)[0], ("", ""))[0]
    if value is None:
        return NOT_OBSERVED
    if isinstance(value, (bool, str)):
        return str(value)
    if isinstance(value, (int, float)):
        return with_unit(value, unit)
    if _is_interval(value):
        return _interval(value, unit)
    if set(value) == set(SUMMARY_KEYS):
        if all(part is None for part in value.values()):
            return NOT_OBSERVED
        return ", ".join(f"{key} {_short(value[key], unit)}" for key in SUMMARY_KEYS)
    return ", ".join(f"{key} {_short(part, unit)}" for key, part in value.items()) or "none"


def limit(value: Any, name: str = "") -> str:
    """A limit in words: `{"max": 60}` is "at most 60 s"."""
    if not isinstance(value, Mapping):
        return figure(name, value)
    words = {"max": "at most", "min": "at least"}
    said = [f"{words[key]} {figure(name, value[key])}" for key in words if value.get(key) is not None]
    return " and ".join(said)


def ci95(value: Any, name: str = "") -> str:
    """A confidence interval in words; a dash where there is none."""
    return f"{figure(name, value[0])} to {figure(name, value[1])}" if value else "–"


def _ends(around: Any, unit: str) -> str:
    """Both ends of an interval; a unit that they share stands once."""
    low, high = (with_unit(end, unit) for end in around)
    low_number, _, low_unit = low.rpartition(" ")
    return f"{low_number} to {high}" if low_number and low_unit == high.rpartition(" ")[2] else f"{low} to {high}"


def verdict_sentence(summary: Mapping[str, Any]) -> str:
    """Why the verdict is what it is, in one or more short sentences; empty where the notes alone say it."""
    expectations = summary["expectations"]
    said = [_shortfall(each, summary["replications"]) for each in expectations if each["verdict"] != "pass"]
    broken = [name for name, violations in summary["invariants"].items() if violations]
    if broken:
        said.append(f"Invariants were broken: {', '.join(broken)}.")
    if said or not expectations:
        return " ".join(said)
    what = f"All {len(expectations)} expectations hold" if len(expectations) > 1 else "What was expected holds"
    runs = summary["replications"]
    return f"{what} in each of {runs} runs." if runs > 1 else f"{what}."


def notes(summary: Mapping[str, Any]) -> list[str]:
    """What else is to be said of the verdict, one sentence each."""
    return [_sentence(note) for note in summary.get("notes") or ()]


def _sentence(note: str) -> str:
    """A note as a sentence; where it begins with the name of a figure, with its label."""
    name, colon, rest = note.partition(":")
    if colon and name in LABELS:
        note = LABELS[name] + colon + rest
    return f"{note[:1].upper()}{note[1:].rstrip('.')}."


def _shortfall(each: Mapping[str, Any], runs: int) -> str:
    """One expectation that was not kept, or not judged."""
    name = each["name"]
    what = f"{name} should be {limit(each['limit'], name)}"
    if each["value"] is None:
        return f"{what}, and was not observed."
    measured = figure(name, each["value"])
    if runs > 1:
        measured += " on average"
        if each.get("worst") is not None:
            measured += f", {figure(name, each['worst'])} at worst"
    kept = f"; it was kept in {each['kept']} of {runs} runs" if runs > 1 and "kept" in each else ""
    if each["verdict"] == "fail":
        return f"{what}, and is {measured}{kept}."
    return f"{what}; it is {measured} where it was observed, and was not observed everywhere{kept}."


def run_again(summary: Mapping[str, Any], scenario_file: str | None = None) -> str:
    """The command line that does the same run again: `summary["command"]` where it is there, else the plainest one."""
    if summary.get("command"):
        return str(summary["command"])
    file = scenario_file or summary.get("scenario_file") or f"scenarios/{summary['scenario']}.yaml"
    words = ["ollamamax run", file, f"--seed {summary['seed']}", f"--replications {summary['replications']}"]
    if summary["world"] != "twin":
        words.append(f"--world {summary['world']}")
    return " ".join(words)


def _short(value: Any, unit: str) -> str:
    """The same without the interval, for places where several figures stand in a row."""
    if value is None:
        return NOT_OBSERVED
    if isinstance(value, Mapping):
        return with_unit(value["mean"], unit) if value.get("mean") is not None else NOT_OBSERVED
    return with_unit(value, unit)


def _is_interval(value: Any) -> bool:
    return isinstance(value, Mapping) and "n" in value and "mean" in value


def _interval(value: Mapping[str, Any], unit: str) -> str:
    if value["mean"] is None:
        return NOT_OBSERVED
    around = value.get("ci95")
    said = with_unit(value["mean"], unit)
    if around is None or around[0] is None:
        return f"{said} (n = {value['n']})"
    return f"{said} (95 % CI {_ends(around, unit)}, n = {value['n']})"


def _magnitude(size: float) -> int:
    """The power of ten of the first digit that counts."""
    return int(f"{size:e}".split("e")[1])
