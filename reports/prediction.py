"""What `ollamamax train` and `ollamamax evaluate` print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from reports.tables import print_table


def print_training(document: dict[str, Any], console: Console) -> None:
    """What a model was made of, and what its calibration worlds say."""
    data, figures = document["data"], document["figures"]
    console.print(
        f"{data['rows']:,} looks at nodes in {data['node_days']:g} node-days of "
        f"{data['worlds']['training']} training worlds; {data['worlds']['calibration']} calibration worlds"
    )
    print_table(
        [
            {"failure": name, "looks within the horizon of one": count}
            for name, count in data["rows_before_failures"].items()
        ],
        console,
    )
    if figures["hard_action_threshold"] is None:
        console.print("No threshold keeps false hard actions down on the calibration worlds.")
    else:
        console.print(
            f"Hard actions from {figures['hard_action_threshold']:.2f} on: recall {figures['calibration_recall']} of "
            f"{figures['calibration_failures']} failures, {figures['calibration_false_a_node_day']} false a node-day "
            "(calibration worlds; `ollamamax evaluate` measures on others)"
        )


def print_evaluation(found: dict[str, Any], console: Console) -> None:
    """The tables of an evaluation."""
    _heading(
        console, "Failures that show, by event (test worlds: other machines, loads and parameters than in training)"
    )
    print_table([_method(row) for row in found["methods"]], console)
    _heading(console, "The same where nobody repairs anything")
    print_table([_method(found["untreated"])], console)
    _heading(console, "Kinds that were in no training world")
    print_table([_method(row) for row in found["held_out"]], console)
    _heading(console, "Failures without a sign: what is foretold beyond chance is a leak of the simulator")
    print_table(
        [
            {
                "worlds": worlds,
                "threshold": rate,
                "failures": row["failures"],
                "foretold": row["foretold"],
                "recall": row["recall"],
                "95 %": _range(row["recall_ci95"]),
                "by chance": row["chance"],
            }
            for worlds in ("sudden", "without_signs")
            for rate, row in found[worlds].items()
        ],
        console,
    )
    _heading(console, "By class, and by kind (test and held-out worlds)")
    print_table([_group("class", row) for row in found["classes"]], console)
    print_table([_group("kind", row) for row in found["kinds"]], console)
    reliability = found["calibration"]
    _heading(console, "Calibration: of forecasts with a probability, so many came true")
    print_table(
        [
            {
                "from": it["from"],
                "to": it["to"],
                "n": it["n"],
                "forecast": it["forecast"],
                "came true": it["observed"],
                "95 %": _range(it["observed_ci95"]),
            }
            for it in reliability["points"]
        ],
        console,
    )
    console.print(
        f"Expected calibration error {reliability['ece']}, over the {reliability['forecasts']:,} forecasts of 5 % and more "
        f"{reliability['ece_of_forecasts']}; Brier {reliability['brier']} (base rates alone: "
        f"{reliability['brier_of_base_rates']}); accuracy {reliability['accuracy']}, of "
        f"[italic]never fails[/italic] {reliability['accuracy_of_never_fails']}."
    )
    if found.get("downtime"):
        _heading(console, "Failed or late request-minutes, the same worlds under three policies")
        print_table([_downtime(row) for row in found["downtime"]["worlds"]], console)
        console.print(found["downtime"]["words"])
    budget = found["budget"]
    console.print(
        f"A decision over {budget['nodes']} nodes takes {budget['median_ms']:g} ms of processor time (aim: 5)."
    )


def _heading(console: Console, text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]")


def _range(interval: Sequence[float] | None) -> str:
    return f"{interval[0]:.2f} to {interval[1]:.2f}" if interval is not None else "-"


def _method(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "method": row["method"],
        "n": row["failures"],
        "recall": row["recall"],
        "95 %": _range(row["recall_ci95"]),
        "false a node-day": row["false_a_node_day"],
        "95 % ": _range(row["false_a_node_day_ci95"]),
        "at best threshold": row["recall_at_best_threshold"],
        "class named": f"{row['class_named']} of {row['foretold']}",
        "look-alikes": f"{row['look_alikes_acted_on']} of {row['look_alikes']}",
        "lead, s": row["lead_s"]["median"],
    }


def _group(what: str, row: dict[str, Any]) -> dict[str, Any]:
    return {
        what: row[what],
        "n": row["failures"],
        "recall": row["recall"],
        "95 %": _range(row["recall_ci95"]),
        "class named": row["class_named"],
        "lead, s: p10": row["lead_s"]["p10"],
        "median": row["lead_s"]["median"],
        "p90": row["lead_s"]["p90"],
    }


def _downtime(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "worlds": row["worlds"],
        "n": row["n"],
        "without prediction": row["reactive_minutes"],
        "predictor": row["predictor_minutes"],
        "oracle": row["oracle_minutes"],
        "gap closed": row["gap_closed"],
        "95 %": _range(row["gap_closed_ci95"]),
        "predictor - without, mean": row["difference_minutes"],
        "95 % ": _range(row["difference_ci95"]),
    }
