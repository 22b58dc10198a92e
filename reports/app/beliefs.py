"""What a policy's snapshot says, in words. What an older controller does not say is left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports.words import number, seconds

NOTHING = "–"


def of_nodes(policy: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row for each node: what the policy makes of it beyond its health."""
    rates = _part(_part(policy, "tracker"), "rates_rps")
    slow, predictor = _part(policy, "slow"), _part(policy, "predictor")
    rows = []
    for name, node in _part(policy, "nodes").items():
        passed_s = node.get("passed_s_ago")
        rows.append(
            {
                "Node": str(name),
                "Last known to generate": f"{passed_s:,.1f}\u00a0s\u00a0ago"
                if isinstance(passed_s, (int, float))
                else NOTHING,
                "Serves": f"{number(round(rates[name], 3))} requests/s" if rates.get(name) else NOTHING,
                "At once": ", ".join(f"{model} {slots}" for model, slots in _part(node, "slots").items()) or NOTHING,
                "Set back by": _set_back(node, slow.get(name)),
                "Forecast": _forecast(_part(predictor, name)),
            }
        )
    return rows


def _set_back(node: Mapping[str, Any], slow: object) -> str:
    said = []
    if node.get("penalty"):
        said.append(f"{number(node['penalty'])}, as it is slow")
    if node.get("rising"):
        said.append(f"{number(node['rising'])}, as it has just come back")
    if slow:
        said.append(str(slow))
    return "; ".join(said) or NOTHING


def _forecast(prediction: Mapping[str, Any]) -> str:
    """The failure that it holds for the likeliest."""
    known = [each for each in prediction.get("forecasts") or () if len(each) >= 3]
    if not known:
        return NOTHING
    failure, probability, horizon_s = max(known, key=lambda each: float(each[1]))[:3]
    return f"{str(failure).replace('_', ' ')} within {seconds(horizon_s)}: {100.0 * probability:.2g} %"


def remedies(policy: Mapping[str, Any]) -> list[dict[str, str]]:
    """How often which remedy helped, over all nodes."""
    rows = []
    for key, (helped, failed) in _part(_part(policy, "healer"), "rates").items():
        remedy, _, ailment = str(key).partition(" ")
        if " " not in ailment:  # else it is of one node, and counts in that of all
            of = f"{number(round(helped, 2))} of {number(round(helped + failed, 2))}"
            rows.append({"Remedy": remedy.replace("_", " "), "Against": ailment.replace("_", " "), "Helped": of})
    return rows


def budgets(policy: Mapping[str, Any]) -> list[str]:
    """What it may still do, what it expects to take how long, and whom it takes for endangered: a sentence each."""
    said = []
    if isinstance(policy.get("retry_budget"), (int, float)):
        said.append(f"Retries that the budget allows at this moment: {number(round(policy['retry_budget'], 1))}.")
    foresight = _part(policy, "foresight")
    if isinstance(foresight.get("budget"), (int, float)):
        said.append(f"Precautions that may still be in vain: {number(round(foresight['budget'], 2))}.")
    tracker = _part(policy, "tracker")
    if "restart_s" in tracker and "load_s" in tracker:
        said.append(
            f"It expects a restart to take {seconds(tracker['restart_s'])} and a load {seconds(tracker['load_s'])}."
        )
    for model, factor in _part(_part(policy, "redundancy"), "factors").items():
        if factor and factor[0]:
            replicas = "replica" if factor[0] == 1 else "replicas"
            said.append(f"It keeps {number(factor[0])} more {replicas} of {model}: {factor[1]}.")
    for name, endangered in _part(foresight, "endangered").items():
        said.append(f"{name} is in danger: {endangered[1]}.")
    return said


def _part(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = of.get(name)
    return found if isinstance(found, Mapping) else {}
