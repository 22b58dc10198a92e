"""Cluster now: a running controller, looked at every two seconds through its admin API. It only looks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import streamlit as st

from reports.app.controller import ControllerView, Unreachable, look
from reports.app.shared import empty, escaped, show, table
from reports.cluster_charts import load_of_nodes

ADMIN = "http://127.0.0.1:11436"
EVERY_S = 2.0
ACTIONS_SHOWN = 20


def page() -> None:
    """Draw it."""
    st.title("Cluster now", anchor=False)
    left, right = st.columns(2)
    admin = left.text_input(
        "Admin API of ollamamax serve", value=os.environ.get("OLLAMAMAX_ADMIN", ADMIN), key="cluster_admin"
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
    try:
        view = look(admin, Path(token_file) if token_file else None)
    except Unreachable as error:
        empty(
            f"No controller can be looked at: {error}. Start one with an admin API, and give its address above:",
            "ollamamax serve --node http://gpu1:11434 --node http://gpu2:11434 --admin 127.0.0.1:11436",
        )
        return
    _head(view)
    _nodes(view)
    _incidents(view)
    _actions(view)
    _mind(view)


def _head(view: ControllerView) -> None:
    serving = sum(node["health"] in ("serving", "proving") and not node["operator"] for node in view.nodes)
    going = [each for each in view.incidents if each["state"] not in ("closed", "given_up")]
    given_up = [each for each in view.incidents if each["state"] == "given_up"]
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
    st.caption(f"Looked at {view.looked_at} by this machine's clock; the controller has run for {view.now_s:,.0f} s.")


def _nodes(view: ControllerView) -> None:
    st.subheader("Nodes", anchor=False)
    if not view.nodes:
        empty("The controller has no nodes; give it some with --node URL.")
        return
    table(
        [
            {
                "Node": node["name"],
                "Health": node["health"] or "unknown",
                "Ordered": node["operator"] or "–",
                "In flight": str(node["in_flight"]),
                "Rising": f"{node['rising']} levels back" if node.get("rising") else "–",
                "Loaded": ", ".join(node["resident"]) or "–",
                "Incident": node["incident"] or "–",
                "Telemetry": "yes" if node["telemetry"] else "silent" if node["agent"] else "no agent",
                "Address": node["url"],
            }
            for node in view.nodes
        ],
        "cluster_nodes",
    )
    show(load_of_nodes(view.nodes))


def _incidents(view: ControllerView) -> None:
    st.subheader("Incidents", anchor=False)
    if not view.incidents:
        st.caption("None since the controller started.")
        return
    st.caption("What the policy took for a failure, the latest first; ages are by the controller's clock.")
    table(
        [
            {
                "Ago": _ago(view.now_s, each["opened_s"]),
                "Node": each["node"],
                "Diagnosis": each["diagnosis"],
                "State": each["state"],
                "Evidence": each["evidence"],
            }
            for each in reversed(view.incidents[-ACTIONS_SHOWN:])
        ],
        "cluster_incidents",
    )


def _actions(view: ControllerView) -> None:
    st.subheader("Actions", anchor=False)
    if not view.actions:
        st.caption("None since the controller started.")
        return
    st.caption("What was done about it, and on whose order, the latest first.")
    table(
        [
            {
                "Action": f"{each['kind']} {each.get('model') or ''}".strip(),
                "Node": each["node"],
                "Result": " ".join(str(it) for it in (each.get("status"), each.get("detail")) if it) or "under way",
                "Why": each.get("reason") or "",
            }
            for each in reversed(view.actions[-ACTIONS_SHOWN:])
        ],
        "cluster_actions",
    )


def _mind(view: ControllerView) -> None:
    with st.expander("What the policy believes"):
        st.caption("Its state as the controller would hand it to a successor.")
        st.json(view.policy, expanded=1)


def _ago(now_s: float, then_s: Any) -> str:
    return f"{max(0.0, now_s - float(then_s)):,.0f} s" if isinstance(then_s, (int, float)) else "–"
