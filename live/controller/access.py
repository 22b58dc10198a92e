"""Who may give orders: a shared token, or loopback and nobody's web page."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Middleware

from live.gateway.hosts import Hosts
from live.hands.config import read_secret
from twin.errors import OperatorError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def read_token(path: Path | None) -> str:
    """The token in a file; empty without a file. Raises `OperatorError`."""
    if path is None:
        return ""
    try:
        return read_secret(path).decode("ascii")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OperatorError(
            f"{path}: the token cannot be read: {reason}; put one line of plain letters there"
        ) from error


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address to listen on."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_token_beyond_loopback(host: str, token: str, what: str, how: str) -> None:
    """Raises `OperatorError` where anybody on the network could give orders."""
    if not token and not is_loopback(host):
        raise OperatorError(
            f"{what} would take orders from anybody who reaches {host}; give {how}, or listen on 127.0.0.1"
        )


def guard(token: str, hosts: Hosts, open_paths: frozenset[str] = frozenset()) -> Middleware:
    """Let in who brings the token. Without one, everybody but a browser on behalf of some web page, also of one whose
    name leads here."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in open_paths:
            return await handler(request)
        if token:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(errors="surrogateescape"), token.encode()):
                headers = {"WWW-Authenticate": "Bearer"}
                return web.json_response(
                    {"error": "give the shared token as Authorization: Bearer TOKEN"}, status=401, headers=headers
                )
        elif "Origin" in request.headers or "Sec-Fetch-Site" in request.headers:
            return web.json_response({"error": "no web page may give orders here"}, status=403)
        elif not hosts.allow(request.headers.get("Host", "")):
            error = f"this is not called {request.headers['Host']}; call it localhost, or give it a token_file"
            return web.json_response({"error": error}, status=403)
        return await handler(request)

    return check
