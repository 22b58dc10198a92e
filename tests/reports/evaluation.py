"""An evaluation of a predictor in the form of `ollamamax evaluate MODEL --json`, small and made up."""

from __future__ import annotations

from typing import Any


def method(name: str, recall: float) -> dict[str, Any]:
    return {
        "method": name,
        "failures": 20,
        "foretold": round(20 * recall),
        "recall": recall,
        "recall_ci95": [recall - 0.1, recall + 0.1],
        "false_a_node_day": 0.04,
        "false_a_node_day_ci95": [0.01, 0.09],
        "precision": 0.6,
        "lead_s": {"median": 300.0, "p10": 60.0, "p90": 900.0},
    }


EVALUATION: dict[str, Any] = {
    "worlds": {"calibration": 6, "test": 10},
    "definitions": {"action_s": 30.0, "false_a_node_day_allowed": 0.05},
    "methods": [method("predictor", 0.8), method("threshold rule", 0.3)],
    "sudden": {"strict": {"failures": 40, "foretold": 0, "recall": 0.0, "chance": 0.001}},
    "classes": [
        {
            "class": "gpu_memory",
            "failures": 10,
            "foretold": 8,
            "recall": 0.8,
            "recall_ci95": [0.5, 0.95],
            "class_named": 7,
            "lead_s": {"median": 120.0, "p10": 40.0, "p90": 600.0},
            "leads_s": [40.0, 60.0, 90.0, 120.0, 130.0, 200.0, 400.0, 600.0],
        },
        {
            "class": "overheating",
            "failures": 0,
            "foretold": 0,
            "recall": None,
            "recall_ci95": None,
            "class_named": 0,
            "lead_s": {"median": None, "p10": None, "p90": None},
            "leads_s": [],
        },
    ],
    "calibration": {
        "ece": 0.01,
        "ece_of_forecasts": 0.04,
        "accuracy": 0.99,
        "accuracy_of_never_fails": 0.985,
        "points": [
            {"from": 0.0, "to": 0.1, "n": 900, "forecast": 0.01, "observed": 0.02, "observed_ci95": [0.01, 0.03]},
            {"from": 0.8, "to": 0.9, "n": 30, "forecast": 0.85, "observed": 0.8, "observed_ci95": [0.6, 0.9]},
        ],
    },
    "curves": {
        name: [
            {"threshold": 0.9, "false_a_node_day": 0.0, "recall": recall / 2},
            {"threshold": 0.5, "false_a_node_day": 0.04, "recall": recall},
            {"threshold": 0.1, "false_a_node_day": 3.0, "recall": 0.95},
        ]
        for name, recall in (("predictor", 0.8), ("threshold rule", 0.3))
    },
}
