"""A node's Ollama as a systemd unit: `systemctl restart`, here or on another machine; what does not stop is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from live.hands.command import run_command
from live.hands.placeholders import filled
from live.hands.protocol import HandError, HandResult
from twin.policy.vocabulary import Action


@dataclass(frozen=True, slots=True)
class Unit:
    """Where a node's unit is. `{node}`, `{host}` and `{address}` may stand in `name` and `host`."""

    name: str = "ollama.service"
    host: str = ""  # as `systemctl --host` takes it (over SSH); empty: this machine
    user: bool = False  # a unit of the user's own manager
    kill_after_s: float = 10.0  # a unit that has not stopped by then is killed: a hung runner ignores SIGTERM


class SystemdHands:
    """Restarts units with `systemctl`, and asks it whether they are active afterwards."""

    def __init__(self, units: Mapping[str, Unit], addresses: Mapping[str, str]) -> None:
        self._units = units
        self._addresses = addresses

    async def perform(self, action: Action) -> HandResult:
        """Restart the node's unit; done once systemd says that it is active."""
        unit = self._units.get(action.node)
        if action.kind != "restart" or unit is None:
            raise HandError(f"{action.node} has no systemd unit to {action.kind}")
        address = self._addresses.get(action.node, "")
        name = filled(unit.name, action, address)
        command = ["systemctl", "--no-ask-password"]
        if unit.user:
            command.append("--user")
        if unit.host:
            command += ["--host", filled(unit.host, action, address)]
        restart = asyncio.ensure_future(run_command([*command, "restart", name]))
        try:
            done, _ = await asyncio.wait({restart}, timeout=unit.kill_after_s)
            killed = not done
            if killed:
                await run_command([*command, "kill", "--signal=SIGKILL", name])
            status, said = await restart
        finally:
            if not restart.done():
                restart.cancel()
                await asyncio.gather(restart, return_exceptions=True)
        if status != 0:
            return HandResult("failed", f"systemctl restart {name} ended with status {status}: {said}")
        status, said = await run_command([*command, "is-active", name])
        if status != 0:
            return HandResult("failed", f"{name} was restarted and is {said}")
        return HandResult("done", f"{name} is active" + (", after it had to be killed" if killed else ""))

    async def close(self) -> None:
        """There is nothing to let go of."""
