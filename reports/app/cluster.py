"""Cluster now: a running controller, looked at every two seconds through its admin API. It only looks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from reports.app.beliefs import budgets, of_nodes, remedies
from reports.app.controller import EXAMPLE, ControllerView, Unreachable, look
from reports.app.shared import empty, escaped, show, table
from reports.cluster_charts import load_of_nodes
from reports.words import seconds

EVERY_S = 2.0
ROWS_SHOWN = 20
SEEN = "cluster_seen"
"""In the session: the addresses that answered, each with when it did last."""


def page() -> None:
    """Draw it."""
    st.title("Cluster now", anchor=False)
    left, right = st.columns(2)
    admin = left.text_input(
        "Admin API of ollamamax serve", value=os.environ.get("OLLAMAMAX_ADMIN", EXAMPLE), key="cluster_admin"
    )
    token_file = right.text_input(
        "File with its token, where it has one",
        value=os.environ.get("OLLAMAMAX_TOKEN_FILE", ""),
        key="cluster_token_file",
        placeholder="none: it listens on loopback only",
    )
    _looked(admin, token_file)


@st.fragment(run_every=EVERY_S)
def _looked(admin: str, token_file: str) -> None:
    seen: dict[str, str] = st.session_state.setdefault(SEEN, {})
    try:
        view = look(admin, Path(token_file) if token_file else None)
    except Unreachable as error:
        if admin in seen:
            st.warning(
                f"The controller answered until {seen[admin]}, and is gone: {escaped(str(error))}. This page goes on "
                f"asking every {EVERY_S:g} s."
            )
            return
        empty(
            f"No controller can be looked at: {escaped(str(error))}. Give its address above, or start one:",
            "ollamamax serve --node http://gpu1:11434 --node http://gpu2:11434 --admin 127.0.0.1:11436",
        )
        return
    seen[admin] = view.looked_at
    _head(view)
    _nodes(view)
    _incidents(view)
    _actions(view)
    _beliefs(view)


def _head(view: ControllerView) -> None:
    serving = sum(node["health"] in ("serving", "proving") and not node["operator"] for node in view.nodes)
    going = [each for each in view.incidents if each["state"] not in ("closed", "given_up")]
    given_up = [each for each in view.incidents if each["state"] == "given_up"]
    st.caption(
        f"Looked at {view.looked_at} by this machine's clock, and again every {EVERY_S:g} s; the controller has run for "
        f"{view.now_s:,.0f} s. This page gives no orders: `ollamamax nodes drain|return|restart NODE` does."
    )
    columns = st.columns(4)
    columns[0].metric(
        "Nodes that get traffic", f"{serving} of {len(view.nodes)}", help="serving or proving, and not drained"
    )
    columns[1].metric(
        "Requests in flight", sum(node["in_flight"] for node in view.nodes), help="at all nodes, by the gateway's count"
    )
    columns[2].metric("Waiting", view.waiting, help="requests that the gateway keeps until a node has room")
    columns[3].metric("Incidents that go on", len(going), help="opened, and not verified and closed yet")
    if given_up:
        nodes = ", ".join(sorted({each["node"] for each in given_up}))
        st.error(f"Given up, no remedy is left: {escaped(nodes)}. Somebody has to look at it.")
    burning = str((view.policy.get("tracker") or {}).get("burning") or "")
    if burning:
        st.warning(escaped(f"Too much fails: {burning}."))


def _nodes(view: ControllerView) -> None:
    if not view.nodes:
        empty("The controller has no nodes; give it some with --node URL.")
        return
    show(load_of_nodes(view.nodes))
    table([_node(node) for node in view.nodes], "cluster_nodes")


def _node(node: Mapping[str, Any]) -> dict[str, str]:
    return {
        "Node": node["name"],
        "Health": node["health"] or "unknown",
        "Ordered": node["operator"] or "–",
        "In flight": str(node["in_flight"]),
        "Loaded": ", ".join(node["resident"]) or "–",
        "Incident": (node["incident"] or "–").replace("_", " "),
        "Telemetry": "yes" if node["telemetry"] else "silent" if node["agent"] else "no agent",
        "Address": node["url"],
    }


def _incidents(view: ControllerView) -> None:
    st.subheader("Incidents", anchor=False)
    if not view.incidents:
        st.caption("None since the controller started.")
        return
    st.caption(f"What the policy took for a failure, the latest first.{_left_out(len(view.incidents))}")
    table(
        [
            {
                "Opened": _ago(view.now_s, each["opened_s"]),
                "Node": each["node"],
                "Diagnosis": each["diagnosis"].replace("_", " "),
                "State": _state(each),
                "Evidence": each["evidence"],
            }
            for each in reversed(view.incidents[-ROWS_SHOWN:])
        ],
        "cluster_incidents",
    )


def _state(incident: Mapping[str, Any]) -> str:
    """Where it stands; of one that is over, how long it took."""
    opened_s, closed_s = incident["opened_s"], incident.get("closed_s")
    if incident["state"] == "closed" and isinstance(closed_s, (int, float)):
        return f"closed after {seconds(closed_s - opened_s)}"
    return str(incident["state"]).replace("_", " ")


def _actions(view: ControllerView) -> None:
    st.subheader("Actions", anchor=False)
    if not view.actions:
        st.caption("None since the controller started.")
        return
    st.caption(f"What was done about it, and on whose order, the latest first.{_left_out(len(view.actions))}")
    table(
        [
            {
                "Ordered": _ago(view.now_s, each["ordered_s"]),
                "Action": f"{each['kind'].replace('_', ' ')} {each.get('model') or ''}".strip(),
                "Node": each["node"],
                "Result": _result(each),
                "Why": each["reason"],
            }
            for each in reversed(view.actions[-ROWS_SHOWN:])
        ],
        "cluster_actions",
    )


def _result(action: Mapping[str, Any]) -> str:
    """What came of it, and how long it took."""
    if not action["status"]:
        return "under way"
    took = ""
    if isinstance(action.get("result_s"), (int, float)):
        took = f" after {seconds(action['result_s'] - action['ordered_s'])}"
    return f"{action['status']}{took}{': ' if action['detail'] else ''}{action['detail']}"


def _beliefs(view: ControllerView) -> None:
    st.subheader("What the policy thinks", anchor=False)
    st.caption(
        "What it goes by when it decides. A node that is set back gets a request only where the others have that many "
        "more; a forecast is the predictor's probability of a failure, for nodes with an agent."
    )
    table(of_nodes(view.policy), "cluster_beliefs")
    st.markdown("\n".join(f"- {escaped(line)}" for line in budgets(view.policy)))
    helped = remedies(view.policy)
    if helped:
        st.caption("How often each remedy has helped here, so far as that was verified:")
        table(helped, "cluster_remedies")
    with st.expander("All of its state, as the controller would hand it to a successor"):
        st.json(view.policy, expanded=1)


def _left_out(count: int) -> str:
    return f" {count - ROWS_SHOWN} earlier ones are not shown." if count > ROWS_SHOWN else ""


def _ago(now_s: float, then_s: Any) -> str:
    return f"{max(0.0, now_s - float(then_s)):,.0f}\u00a0s\u00a0ago" if isinstance(then_s, (int, float)) else "–"
