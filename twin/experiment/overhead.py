"""What fault tolerance costs where nothing breaks: the same trace with it on and off, pair by pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twin.experiment.statistics import paired
from twin.experiment.study import Line, key_of
from twin.experiment.verdict import look_up

FIGURES_OF_COST = (
    "ttft_s.mean",
    "ttft_s.p50",
    "ttft_s.p95",
    "e2e_s.mean",
    "e2e_s.p50",
    "e2e_s.p95",
    "queue_wait_s.mean",
    "attempts_per_request",
)


def relative_costs(study: Mapping[str, Any], lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Each point of a comparison against its first, by each figure of cost, as a share of the baseline's.

    Rows {variant, figure, baseline, difference, relative, ci95, n, p_value}; `relative` is the mean of the paired
    differences over the baseline's mean, `ci95` its interval (that of the difference, over the same mean). A figure
    that is 0 in the baseline has no row.
    """
    points = study["points"]
    of_point = {
        key_of(point["settings"]): {
            line["seed"]: line for line in lines if key_of(line["settings"]) == key_of(point["settings"])
        }
        for point in points
    }
    base = of_point[key_of(points[0]["settings"])]
    rows = []
    for point in points[1:]:
        variant = of_point[key_of(point["settings"])]
        for name in FIGURES_OF_COST:
            pairs = [
                (look_up(base[seed]["figures"], name), look_up(variant[seed]["figures"], name))
                for seed in sorted(base.keys() & variant.keys())
            ]
            known = [(one, two) for one, two in pairs if one is not None and two is not None]
            mean = sum(one for one, _ in known) / len(known) if known else 0.0
            if not mean:
                continue
            test = paired([one for one, _ in known], [two for _, two in known])
            rows.append(
                {
                    "variant": point["settings"],
                    "figure": name,
                    "baseline": mean,
                    "difference": test.mean,
                    "relative": test.mean / mean,
                    "ci95": [end / mean for end in test.ci95] if test.ci95 else None,
                    "n": test.count,
                    "p_value": test.p_value,
                }
            )
    return rows


def measures_overhead(study: Mapping[str, Any]) -> bool:
    """Whether a comparison has fault tolerance off as its baseline, and something else beside it."""
    presets = study.get("vary", {}).get("policy.preset") or []
    return study.get("kind") == "compare" and bool(presets) and presets[0] == "none" and len(presets) > 1


def had_faults(lines: Sequence[Line]) -> bool:
    """Whether anything broke in its runs: then the differences are not only what watching costs."""
    return any(line["recoveries"] for line in lines)
