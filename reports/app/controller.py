"""Looks at a running controller through its admin API: GET, and nothing else."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

ANSWER_LIMIT_S = 3.0
ANSWER_LIMIT_BYTES = 1 << 24
NODE_KEYS = {"name", "url", "health", "operator", "in_flight", "resident", "incident", "agent", "telemetry"}


class Unreachable(Exception):
    """No controller could be looked at; the text says why."""


@dataclass(frozen=True, slots=True)
class ControllerView:
    """What a controller said. Times are seconds on its own clock, but `looked_at`."""

    now_s: float
    waiting: int
    nodes: list[dict[str, Any]]
    incidents: list[dict[str, Any]]
    actions: list[dict[str, Any]]
    policy: dict[str, Any]
    looked_at: str


def look(admin: str, token_file: Path | None) -> ControllerView:
    """Ask it. Raises `Unreachable`."""
    headers = {}
    if token_file is not None:
        try:
            headers["Authorization"] = f"Bearer {token_file.read_text(encoding='ascii').strip()}"
        except (OSError, ValueError) as error:
            raise Unreachable(f"{token_file} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    url = (admin if "://" in admin else f"http://{admin}").rstrip("/")
    nodes, actions = _get(f"{url}/-/nodes", headers), _get(f"{url}/-/actions", headers)
    known = nodes.get("nodes")
    if not isinstance(known, list) or not all(isinstance(node, dict) and set(node) >= NODE_KEYS for node in known):
        raise Unreachable(f"{url} answers, but is no admin API of this version")
    return ControllerView(
        now_s=float(nodes.get("now_s") or 0.0),
        waiting=int(nodes.get("waiting") or 0),
        nodes=known,
        incidents=list(nodes.get("incidents") or ()),
        actions=list(actions.get("actions") or ()),
        policy=dict(nodes.get("policy") or {}),
        looked_at=datetime.now().strftime("%H:%M:%S"),
    )


def _get(url: str, headers: dict[str, str]) -> dict[str, Any]:
    try:
        request = urllib.request.Request(url, headers=headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # an operator's proxy is not for this
        with opener.open(request, timeout=ANSWER_LIMIT_S) as response:
            answer = json.loads(response.read(ANSWER_LIMIT_BYTES))
    except urllib.error.HTTPError as error:
        wants = "; it wants a token" if error.code == 401 else ""
        raise Unreachable(f"{url} answered with status {error.code}{wants}") from error
    except (OSError, ValueError) as error:
        raise Unreachable(f"{url} does not answer ({getattr(error, 'reason', error)})") from error
    if not isinstance(answer, dict):
        raise Unreachable(f"{url} answers, but is no admin API of ollamamax serve")
    return answer
