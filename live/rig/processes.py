"""The rig's own processes: noted in its ledger, pinned to cores, held in a cgroup."""

import contextlib
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from live.hands import process
from live.hands.process import is_free, plain_environment
from live.rig.errors import RigError
from live.rig.ledger import MARK, Ledger
from live.rig.machine import Cgroup, pinned_thread, set_frozen

__all__ = ["ManagedProcess", "ProcessFailed", "free_port", "plain_environment"]

# Below the range from which systems take the ports of outgoing connections (Linux 32768, macOS 49152): the port of a
# node that is down must still be free when it comes back.
PORTS = range(20_000, 32_000)
_ports_given: set[int] = set()


class ProcessFailed(RigError, process.ProcessFailed):
    """A process of the rig did not start, or does not end; the message names its log."""


def free_port() -> int:
    """A free TCP port on loopback that no outgoing connection will take and this process has not given out before.

    Raises RigError where none is left.
    """
    for _ in range(1000):
        port = random.SystemRandom().choice(PORTS)
        if port not in _ports_given and is_free(port):
            _ports_given.add(port)
            return port
    raise RigError(f"no free port among {PORTS.start} to {PORTS.stop} on 127.0.0.1; end what holds them")


class ManagedProcess(process.ManagedProcess):
    """A server of the rig. Should the rig be killed, its ledger and the mark give the process away."""

    failure = ProcessFailed

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        ledger: Ledger,
        log: Path,
        environment: Mapping[str, str],
        cores: Sequence[int] | None = None,
        cgroup: Cgroup | None = None,
    ) -> None:
        super().__init__(name, command, log=log, environment=environment, mark=(MARK, f"{ledger.token}:{name}"))
        self._ledger = ledger
        self._cores = cores
        self._cgroup = cgroup

    def _birth(self) -> contextlib.AbstractContextManager[None]:
        return pinned_thread(self._cores)

    def _born(self, pid: int) -> None:
        self._ledger.add_process(pid)
        if self._cgroup is not None:
            self._cgroup.add(pid)

    def _dead(self, pid: int) -> None:
        self._ledger.remove_process(pid)

    def _thaw(self) -> None:
        if self._cgroup is not None:
            for folder in self._cgroup.folders.values():
                set_frozen(folder, frozen=False)
