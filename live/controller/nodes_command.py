"""`ollamamax nodes`: asks the admin API of a running `serve`, and gives it orders."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

from live.hands.config import read_secret
from twin.errors import OperatorError

ANSWER_LIMIT_S = 10.0
POLL_S = 0.2


class AdminClient:
    """Talks to one admin API. Its methods raise `OperatorError`."""

    def __init__(self, admin: str, token_file: Path | None) -> None:
        self._url = (admin if "://" in admin else f"http://{admin}").rstrip("/")
        self._headers: dict[str, str] = {}
        if token_file is not None:
            try:
                self._headers["Authorization"] = f"Bearer {read_secret(token_file).decode('ascii')}"
            except (OSError, ValueError) as error:
                raise OperatorError(f"{token_file}: the token cannot be read: {error}") from error

    def nodes(self) -> dict[str, Any]:
        """The answer of GET /-/nodes."""
        return self._call("GET", "/-/nodes")

    def order(self, order: str, node: str) -> dict[str, Any]:
        """Give an order; what the API answers."""
        return self._call("POST", f"/-/nodes/{quote(node, safe='')}/{order}")

    def wait(self, order: str, node: str, since_id: int, limit_s: float, *, stays: bool) -> tuple[dict[str, Any], str]:
        """Until the order is carried out: the node, and what went wrong (empty: nothing).

        `since_id`: the last action before the order. `stays`: a restart that leaves the node drained, as it was.
        """
        until_s = time.monotonic() + limit_s
        while True:
            view = next(each for each in self.nodes()["nodes"] if each["name"] == node)
            new = [it for it in self.actions() if it["id"] > since_id and it["node"] == node]
            restarts = [it for it in new if it["kind"] == "restart"]
            if order == "restart" and restarts and restarts[-1]["status"] not in (None, "done"):
                return view, f"the restart of {node} {restarts[-1]['status']}: {restarts[-1]['detail']}"
            if _reached(order, view, bool(restarts), stays):
                return view, ""
            if time.monotonic() >= until_s:
                state = f"{view['operator'] or view['health']}, {view['in_flight']} in flight"
                return view, f"{node} is not there after {limit_s:g} s: it is {state}"
            time.sleep(POLL_S)

    def actions(self) -> list[dict[str, Any]]:
        """The last actions, oldest first."""
        actions: list[dict[str, Any]] = self._call("GET", "/-/actions")["actions"]
        return actions

    def _call(self, method: str, path: str) -> dict[str, Any]:
        data = b"" if method == "POST" else None
        request = urllib.request.Request(self._url + path, data, self._headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # an operator's proxy is not for this
        try:
            with opener.open(request, timeout=ANSWER_LIMIT_S) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise OperatorError(f"{self._url}: {_reason(error)}") from error
        except (OSError, ValueError) as error:
            why = getattr(error, "reason", error)
            raise OperatorError(
                f"{self._url}: no admin API answers there ({why}); start serve with --admin HOST:PORT, and give --admin"
            ) from error
        if not isinstance(answer, dict):
            raise OperatorError(f"{self._url}: it answers, but is no admin API of ollamamax serve")
        return answer


def _reached(order: str, view: dict[str, Any], restarted: bool, stays_drained: bool) -> bool:
    serves = not view["operator"] and view["health"] in ("serving", "proving")
    if order == "drain" or (order == "restart" and stays_drained):
        idle = view["operator"] == "drained" and not view["in_flight"]
        return idle and (order == "drain" or restarted)
    return serves and (order == "return" or restarted)


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return f"it answered with status {error.code}; is it the admin API of ollamamax serve?"


def rows(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes as rows of a table for people."""
    return [
        {
            "node": node["name"],
            "url": node["url"],
            "health": node["health"],
            "operator": node["operator"] or "-",
            "in flight": node["in_flight"],
            "loaded": ", ".join(node["resident"]) or "-",
            "incident": node["incident"] or "-",
            "agent": "yes" if node["telemetry"] else "silent" if node["agent"] else "-",
            "hands": ", ".join(sorted({"restart", "kill_runner"} & set(node["hands"]))) or "-",
        }
        for node in answer["nodes"]
    ]
