"""Requests that break what they touch: a prompt that aborts the whole server must not be carried from node to node.

Within one request, nodes that broke before its first token are counted; the router's limit on attempts ends it. What is
kept here is the memory across requests: a client that sends the same once more is told so, and nothing is broken again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from live.gateway.request_log import FailedAttempt

BREAKS = frozenset({"reset", "server_error", "error_record"})
"""How an attempt ends whose server or runner died of it."""
REMEMBERED_MAX = 1024


class PoisonMemory:
    """Remembers requests that broke several nodes and were served by none."""

    def __init__(self, nodes_min: int, hold_s: float) -> None:
        self._nodes_min = nodes_min
        self._hold_s = hold_s
        self._broke: OrderedDict[int, tuple[float, str]] = OrderedDict()  # fingerprint: until when, which nodes

    def failed(self, fingerprint: int, attempts: Sequence[FailedAttempt], now_s: float) -> None:
        """A request has failed for good, after these attempts."""
        broken = {each.node for each in attempts if each.error in BREAKS and not each.tokens}
        if len(broken) < self._nodes_min or any(each.node not in broken for each in attempts):
            return
        self._broke[fingerprint] = (now_s + self._hold_s, ", ".join(sorted(broken)))
        while len(self._broke) > REMEMBERED_MAX:
            self._broke.popitem(last=False)

    def nodes_broken_by(self, fingerprint: int, now_s: float) -> str:
        """The nodes that the same request has broken of late; empty where there are none."""
        found = self._broke.get(fingerprint)
        if found is None:
            return ""
        if now_s > found[0]:
            del self._broke[fingerprint]
            return ""
        return found[1]
