"""Looks at a running controller through its admin API: GET, and nothing else."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

ANSWER_LIMIT_S = 3.0
ANSWER_LIMIT_BYTES = 1 << 24
NODE_KEYS = {"name", "url", "health", "operator", "in_flight", "resident", "incident", "agent", "telemetry"}
INCIDENT_KEYS = {"node", "diagnosis", "evidence", "opened_s", "state"}
ACTION_KEYS = {"ordered_s", "kind", "node", "status", "detail", "reason"}
EXAMPLE = "http://127.0.0.1:11436"


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
    url = (admin if "://" in admin else f"http://{admin}").strip().rstrip("/")
    if not admin.strip():
        raise Unreachable(f"no address is given; one looks like {EXAMPLE}")
    if not url.startswith(("http://", "https://")):
        raise Unreachable(f"{admin} is no address of an admin API; one looks like {EXAMPLE}")
    headers = {} if token_file is None else {"Authorization": f"Bearer {_token(token_file)}"}
    nodes, actions = _get(f"{url}/-/nodes", headers), _get(f"{url}/-/actions", headers)
    return ControllerView(
        now_s=_number(nodes.get("now_s")),
        waiting=int(_number(nodes.get("waiting"))),
        nodes=_rows(nodes.get("nodes"), NODE_KEYS, url),
        incidents=_rows(nodes.get("incidents"), INCIDENT_KEYS, url),
        actions=_rows(actions.get("actions"), ACTION_KEYS, url),
        policy=nodes["policy"] if isinstance(nodes.get("policy"), dict) else {},
        looked_at=datetime.now().strftime("%H:%M:%S"),
    )


def _token(file: Path) -> str:
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise Unreachable(f"{file} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(token.split()) != 1:
        raise Unreachable(f"{file} has no token; it is one line without a blank")
    return token


def _rows(rows: Any, keys: Collection[str], url: str) -> list[dict[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) and set(row) >= set(keys) for row in rows):
        raise Unreachable(f"{url} answers, but is no admin API of this version")
    return rows


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The token is for the address that was given, and for no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _get(url: str, headers: dict[str, str]) -> dict[str, Any]:
    # An operator's proxy is not for this.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
    try:
        request = urllib.request.Request(url, headers=headers)
        with opener.open(request, timeout=ANSWER_LIMIT_S) as response:
            body = response.read(ANSWER_LIMIT_BYTES)
    except urllib.error.HTTPError as error:
        raise Unreachable(f"{url} answered with status {error.code}{_why(error)}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = getattr(error, "reason", error)
        raise Unreachable(f"{url} does not answer ({getattr(why, 'strerror', None) or why})") from error
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Unreachable(f"{url} answers, but is no admin API of ollamamax serve") from error
    if not isinstance(answer, dict):
        raise Unreachable(f"{url} answers, but is no admin API of ollamamax serve")
    return answer


def _why(error: urllib.error.HTTPError) -> str:
    """What a status other than 200 means here."""
    if error.code == 401:
        return ": it wants its token; name the file that holds it"
    if error.code in (404, 501):
        return ": it is no admin API; that is where --admin of ollamamax serve says, not where clients connect"
    return ""
