"""When a loaded model is let go: `keep_alive`, of the server or of a request.

The node model knows only a time for all models, and looks only when it is asked. Ollama takes another time with every
request and keeps it until the next one that says something else, so the emulator does this part itself.
"""

from __future__ import annotations

import math
from functools import partial

from twin.sim.engine import Clock
from twin.sim.node import OllamaNode
from twin.sim.runner import Runner


class KeepAlive:
    """Unloads models that are idle for too long."""

    def __init__(self, node: OllamaNode, clock: Clock, default_s: float) -> None:
        self._node = node
        self._clock = clock
        self._default_s = default_s
        self._sessions: dict[str, tuple[Runner, float, float]] = {}  # its runner, how long to keep it, last use

    def used(self, model: str, keep_alive_s: float | None = None) -> None:
        """A request for the model has ended. It may say how long to keep the model: 0 lets it go once it is idle."""
        runner = self._node.runners.get(model)
        if runner is None:
            return
        if keep_alive_s is None:
            session = self._sessions.get(model)
            keep_alive_s = session[1] if session is not None and session[0] is runner else self._default_s
        now = self._clock.time()
        self._sessions[model] = (runner, keep_alive_s, now)
        self._node.session_s[model] = keep_alive_s
        if keep_alive_s == 0.0:
            self._expire(model)
        elif math.isfinite(keep_alive_s):
            self._clock.call_at(now + keep_alive_s, partial(self._expire, model))

    def expires_in_s(self, model: str) -> float:
        """How long a model that stays idle is still kept; infinite: for ever."""
        session = self._sessions.get(model)
        return session[1] + session[2] - self._clock.time() if session is not None else math.inf

    def _expire(self, model: str) -> None:
        session = self._sessions.get(model)
        if session is None or session[0] is not self._node.runners.get(model) or self.expires_in_s(model) > 0.0:
            return
        self._node.unload(model)  # once nobody uses it
