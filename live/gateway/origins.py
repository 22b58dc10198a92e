"""Which web pages may use the gateway: a browser says from where a page is, and does not show it an answer that does not
name that place.

Without this, any page that somebody visits could give orders to a gateway on the same machine, and none could use it that
is meant to. Ollama keeps the same list; what its `OLLAMA_ORIGINS` adds there, `origins` adds here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_HERE = ("localhost", "127.0.0.1", "0.0.0.0")  # as a page is called, nobody listens there
ALWAYS = (
    *(f"{scheme}://{host}{port}" for host in _HERE for scheme in ("http", "https") for port in ("", ":*")),
    "app://*",
    "file://*",
    "tauri://*",
    "vscode-webview://*",
    "vscode-file://*",
)
"""Pages of this machine, and programs that are pages; `*` stands for anything."""
METHODS = "GET, POST, DELETE, HEAD"
REMEMBERED_S = "43200"
"""How long a browser need not ask again."""


class Origins:
    """The pages that are served."""

    def __init__(self, more: Iterable[str]) -> None:
        self._pattern = re.compile("|".join(re.escape(each).replace(r"\*", ".*") for each in (*ALWAYS, *more)))

    def allow(self, origin: str, own_host: str) -> bool:
        """Whether a page from there is served; `own_host`: by what name it called the gateway, one that may lead here
        (see `hosts`), so that a page of that name is beside it."""
        if self._pattern.fullmatch(origin):
            return True
        return origin in (f"http://{own_host}", f"https://{own_host}")


def granted(origin: str) -> dict[str, str]:
    """Headers of an answer to a page."""
    return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}


def beforehand(asked_headers: str) -> dict[str, str]:
    """Headers of the answer to a browser that asks before it sends a page's request."""
    headers = {"Access-Control-Allow-Methods": METHODS, "Access-Control-Max-Age": REMEMBERED_S}
    return {**headers, "Access-Control-Allow-Headers": asked_headers} if asked_headers else headers
