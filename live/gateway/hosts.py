"""By which names it may be called: a browser says in `Host` what name led it here.

A page can have a name of its own lead to this machine (DNS rebinding). The browser then takes the gateway for that page's
own server, sends no foreign origin, and shows the page every answer; only the name gives it away. Ollama looks at it where
it listens on loopback, where only this machine's own names lead; the names that it lets in, and `hosts`, are let in here.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable

_HOST = re.compile(r"(?:\[([^\[\]]*)\]|([^:]*))(?::[0-9]*)?")
_OF_THIS_MACHINE = (".localhost", ".local", ".internal")
REMEMBERED_MAX = 1000
"""Headers that have been let in are remembered, but not whatever somebody thinks up below such a name."""


class Hosts:
    """The names that lead here."""

    def __init__(self, more: Iterable[str] = ()) -> None:
        """`more`: names beside those of this machine; `*` stands for anything."""
        self._more = re.compile("|".join(re.escape(name.lower()).replace(r"\*", ".*") for name in more))
        self._known = {"", "localhost", socket.gethostname().lower()}  # old clients say nothing, browsers always

    def allow(self, host: str) -> bool:
        """Whether the header, a name or an address with or without a port, leads here; asked with every request."""
        if host in self._known:
            return True
        if not self._leads_here(host):
            return False
        if len(self._known) < REMEMBERED_MAX:
            self._known.add(host)
        return True

    def _leads_here(self, host: str) -> bool:
        match = _HOST.fullmatch(host.lower())
        if match is None:
            return False
        name = match[1] or match[2]
        if not name:
            return False
        # No name led to an address: who got here by it has connected to it.
        return name in self._known or name.endswith(_OF_THIS_MACHINE) or _is_address(name) or self._is_one_more(name)

    def _is_one_more(self, name: str) -> bool:
        return self._more.fullmatch(name) is not None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
