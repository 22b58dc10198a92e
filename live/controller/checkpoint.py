"""What the controller must remember over its own restart: above all which nodes their operator has set aside.

The state file holds the policy's snapshot for people and tools, and the drained nodes. Those are ordered anew at the next
start; health, loads and incidents are not taken over: nodes are asked, and say what is true now.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import structlog

from live.controller.driver import PolicyDriver
from twin.errors import OperatorError
from twin.policy.vocabulary import OperatorOrder

_log = structlog.get_logger()

LOOK_S = 1.0
"""A drain is saved this soon; all else every `checkpoint_interval_s`."""


class Checkpoint:
    """Saves the state of a driver's policy, and takes it up again."""

    def __init__(self, file: Path, driver: PolicyDriver, interval_s: float) -> None:
        self._file = file
        self._driver = driver
        self._interval_s = interval_s
        self._saved_s = -math.inf
        self._saved_drains: list[str] = []
        self._keeping: asyncio.Task[None] | None = None

    def start(self, nodes: set[str]) -> list[str]:
        """Order again what was in force, and save from now on; the nodes that are set aside. Raises `OperatorError`."""
        drained = [node for node in self._read() if node in nodes]
        for node in drained:
            self._driver.observe(OperatorOrder(node, "drain"))
        self._write(*self._state())  # a file that cannot be written is found now, not in the night
        self._keeping = asyncio.get_running_loop().create_task(self._keep())
        return drained

    async def stop(self) -> None:
        """Save for the last time."""
        if self._keeping is None:
            return
        self._keeping.cancel()
        await asyncio.wait([self._keeping])
        await self._save()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            due = time.monotonic() - self._saved_s >= self._interval_s
            if due or self._state()[1] != self._saved_drains:
                await self._save()

    async def _save(self) -> None:
        try:
            await asyncio.to_thread(self._write, *self._state())
        except OperatorError as error:
            _log.error("state_not_saved", error=str(error))

    def _state(self) -> tuple[dict[str, Any], list[str]]:
        parts = self._driver.policy.snapshot().parts
        nodes = parts.get("nodes", {})
        # What was being restarted or proved is not yet back: it is the operator's to say so again.
        drained = sorted(name for name, node in nodes.items() if node.get("operator"))
        return parts, drained

    def _write(self, parts: dict[str, Any], drained: list[str]) -> None:
        state = {"saved_unix_s": time.time(), "drained": drained, "policy": finite(parts)}
        new = self._file.with_name(self._file.name + ".new")
        try:
            with open(new, "w", encoding="utf-8") as file:
                json.dump(state, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._file)
        except OSError as error:
            raise OperatorError(f"state_file {self._file}: cannot be written: {error.strerror or error}") from error
        self._saved_s = time.monotonic()
        self._saved_drains = drained

    def _read(self) -> list[str]:
        try:
            drained = json.loads(self._file.read_text(encoding="utf-8"))["drained"]
            if not isinstance(drained, list):
                raise ValueError("drained is no list")
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            aside = self._file.with_name(self._file.name + ".unreadable")
            self._file.replace(aside)
            _log.error("state_unreadable", file=str(self._file), kept_as=str(aside), why=str(error))
            return []
        except OSError as error:
            raise OperatorError(f"state_file {self._file}: cannot be read: {error.strerror or error}") from error
        return [str(node) for node in drained]


def finite(value: Any) -> Any:
    """The same with null for times that did not come: JSON has no nan."""
    if isinstance(value, dict):
        return {str(name): finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
