"""What the rig asks of a node, whether it is a real Ollama or the emulator: its life, its faults, its hardware."""

from collections.abc import Sequence
from typing import Protocol

from twin.scenario.faults.base import ForeignClients


class RigNode(Protocol):
    """One node of a cluster on one machine. Every method that waits is a coroutine; errors are RigErrors."""

    @property
    def name(self) -> str:
        """The node's name in the scenario, such as "node-1"."""
        ...

    @property
    def address(self) -> str:
        """Where it serves, "http://127.0.0.1:PORT"; the same over restarts."""
        ...

    @property
    def refused_hardware(self) -> str:
        """What of its hardware this machine does not permit to control, in one line; empty if nothing."""
        ...

    async def start(self) -> None:
        """Starts it and returns once it answers."""
        ...

    async def stop(self) -> None:
        """Ends it and puts everything of its own back; may be called at any time, and twice."""
        ...

    async def restart(self) -> None:
        """Ends what is left of it, hung processes included, and starts it again: the hand of a service manager."""
        ...

    def server_alive(self) -> bool:
        """Whether its server process runs; a hung one does."""
        ...

    def runner_pids(self) -> Sequence[int]:
        """The processes that hold a loaded model, one each; empty while none is loaded."""
        ...

    def pids(self) -> Sequence[int]:
        """All its processes, server first; empty while it is down."""
        ...

    async def stick_loader(self) -> None:
        """Its loading routine stops for good, until it is restarted. Raises RigError where that cannot be done."""
        ...

    async def garble_runner(self, share: float) -> None:
        """That share of the loaded models' answers is gibberish from now on, until they are loaded anew.

        Raises RigError where that cannot be done.
        """
        ...

    async def expire_models(self) -> None:
        """Every loaded model is let go once it is idle."""
        ...

    async def foreign_clients(self, clients: ForeignClients, model: str, seed: int) -> None:
        """These clients ask it from now on, for `model` where they have none of their own, until
        `stop_foreign_clients`; in place of those that are there. Raises RigError where that cannot be done."""
        ...

    async def stop_foreign_clients(self) -> None:
        """They are gone, if there were any."""
        ...

    async def set_condition(self, name: str, value: float) -> None:
        """From now on this condition of `twin.scenario.conditions` holds, also in a new server process.

        Raises RigError where that cannot be done.
        """
        ...

    def served_generations(self) -> int:
        """How many generations it has answered with 200 since it was made, as it counts them itself."""
        ...

    async def kill_server(self) -> None:
        """Server and runners die at once, as when the machine's service crashes."""
        ...

    async def kill_runner(self) -> None:
        """Its runners die; the server lives on. Raises RigError when no model is loaded."""
        ...

    async def pause_runner(self) -> None:
        """Its runners hang; the server lives on. Raises RigError when no model is loaded."""
        ...

    async def resume_runner(self) -> None:
        """Paused runners go on; those that were replaced meanwhile are not missed."""
        ...

    async def throttle(self, core_share: float) -> None:
        """Its processor gets slow: a share of one core from now on, 0.2 being a fifth."""
        ...

    async def unthrottle(self) -> None:
        """Its processor is whole again."""
        ...

    async def limit_memory(self, limit_bytes: int) -> None:
        """From now on what needs more memory than this is killed by the kernel."""
        ...

    async def unlimit_memory(self) -> None:
        """The memory limit is gone."""
        ...

    async def freeze(self) -> None:
        """The whole node hangs, its server included; its connections stay open."""
        ...

    async def thaw(self) -> None:
        """A frozen node goes on."""
        ...
