"""Foreign clients of an emulated node: the twin's, on the emulator's clock, as if they asked past every gateway."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from live.emulator.faults import NotPossible
from twin.scenario.draws import stream
from twin.scenario.faults.base import ForeignClients
from twin.sim.engine import Clock
from twin.sim.foreign import ForeignLoad
from twin.sim.node import OllamaNode

OPERATIONS = ("foreign_clients", "stop_foreign_clients")
"""What can be done through the control endpoint, beside `live.emulator.faults.OPERATIONS`."""

_CLIENTS: TypeAdapter[ForeignClients] = TypeAdapter(ForeignClients)


class ForeignOnNode:
    """The crowd that is there now, if any."""

    def __init__(self, node: OllamaNode, clock: Clock) -> None:
        self.node = node
        self.clock = clock
        self._load: ForeignLoad | None = None

    def perform(self, operation: object, seed: object, foreign: object) -> None:
        """They come (in place of those that are there), or go. Raises NotPossible."""
        if operation == "foreign_clients":
            try:
                clients = _CLIENTS.validate_python(foreign)
            except ValidationError as error:
                first = error.errors()[0]
                raise NotPossible(f"foreign_clients: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
            if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
                raise NotPossible(f"foreign_clients takes a seed, a whole number from 0 on; got {seed!r}")
            self._stop()
            self._load = ForeignLoad(self.clock, self.node, clients, stream(seed, f"foreign:{self.node.name}"))
        else:
            self._stop()

    def _stop(self) -> None:
        if self._load is not None:
            self._load.stop()
            self._load = None
