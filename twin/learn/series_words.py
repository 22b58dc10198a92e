"""What `ollamamax evaluate --data DIR` found, in words."""

from __future__ import annotations

from typing import Any

from twin.learn.series_scoring import BUDGETS


def heading(found: dict[str, Any]) -> list[str]:
    """What was scored, and how; a few lines above the table."""
    turned = found["detector_on_shifted_labels"]
    chosen = found["chosen_without_the_machine"]
    lines = [
        f"{found['data']}: {found['machines']} machines, {found['machine_days']:.1f} machine-days, "
        f"{found['events']} events, {100 * found['labelled_share']:.1f} % of the samples within them",
        f"a sample every {found['period_s']:g} s ({found['period_known']})",
        "recall of events at 1 and at 0.25 false pages a machine-day, one threshold for all machines (95 % interval over "
        "events);",
        "deployable: for 1 a day, the threshold from unlabelled calibration data alone, and the false pages a machine-day "
        "that it really had;",
        "delay: median and 90 % quantile at 1 false page a machine-day; the detector on labels turned in a circle "
        "(chance): " + " and ".join(_number(turned[f"recall_at_{name}"]) for name in BUDGETS),
    ]
    if chosen is not None:
        lines.append(
            "each machine by that variant of the detector which was best on the others: "
            + " and ".join(_number(chosen[f"recall_at_{name}"]) for name in BUDGETS)
        )
    return lines


def rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The table: the detector, its parts switched off, the baselines."""
    named = {"detector": found["detector"]} | found["ablations"] | found["baselines"]
    return [_row(name, figures) for name, figures in named.items()]


def _row(name: str, figures: dict[str, Any]) -> dict[str, Any]:
    wide, tight = (figures[f"recall_at_{budget}"] for budget in BUDGETS)
    deployable = figures[f"deployable_for_{next(iter(BUDGETS))}"]
    return {
        "": name.replace("_", " "),
        "at 1": _recall(wide),
        "at 0.25": _recall(tight),
        "deployable": _number(deployable["recall"]),
        "false/day": _number(deployable["false_pages_per_machine_day"]),
        "delay": _seconds(wide["delay_median_s"]),
        "p90": _seconds(wide["delay_p90_s"]),
        "AUC-PR": _number(figures["auc_pr"]),
    }


def _recall(of: dict[str, Any]) -> str:
    if of["recall"] is None:
        return "-"
    low, high = of["recall_interval"]
    return f"{of['recall']:.2f} ({low:.2f}-{high:.2f})"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} s"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
