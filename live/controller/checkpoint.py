"""What the controller must remember over its own restart: above all which nodes their operator has set aside.

The state file holds the policy's snapshot and the drained nodes. Those are ordered anew at the next start; what has been
learnt (success rates, paces, the predictor's windows, cooldowns, budgets) is taken over. Health, loads and incidents are
not: nodes are asked, and say what is true now.
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

LEARNT_FOR_S = 3600.0
"""What a predecessor had learnt is taken over from a file that is no older than this."""

LOOK_S = 1.0
"""A drain is saved this soon; all else every `checkpoint_interval_s`."""


class Checkpoint:
    """Saves the state of a driver's policy, and takes it up again."""

    def __init__(self, file: Path, driver: PolicyDriver, interval_s: float, copies: int = 1) -> None:
        """`copies`: so many files hold it, FILE, FILE.1, ...; where one cannot be read the next is."""
        self._file = file
        self._files = [file, *(file.with_name(f"{file.name}.{number}") for number in range(1, copies))]
        self._driver = driver
        self._interval_s = interval_s
        self._saved_s = -math.inf
        self._saved_drains: list[str] = []
        self._keeping: asyncio.Task[None] | None = None

    def start(self, nodes: set[str]) -> list[str]:
        """Order again what was in force, and save from now on; the nodes that are set aside. Raises `OperatorError`."""
        known, parts, ago_s = self._read()
        if parts and 0.0 <= ago_s <= LEARNT_FOR_S:
            self._learn(parts, ago_s)
        drained = [node for node in known if node in nodes]
        for node in drained:
            self._driver.observe(OperatorOrder(node, "drain"))
        self._write(*self._state())  # a file that cannot be written is found now, not in the night
        self._keeping = asyncio.get_running_loop().create_task(self._keep())
        return drained

    def _learn(self, parts: dict[str, Any], ago_s: float) -> None:
        """Let the policy go on from what its predecessor had learnt; where the file is of another version, from nothing."""
        try:
            self._driver.policy.learn(self._driver.now() - ago_s, parts)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            _log.warning("state_of_another_version", file=str(self._file), why=repr(error))

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
        for path in self._files:
            new = path.with_name(path.name + ".new")
            try:
                with open(new, "w", encoding="utf-8") as file:
                    json.dump(state, file, indent=1)
                    file.flush()
                    os.fsync(file.fileno())
                new.replace(path)
            except OSError as error:
                raise OperatorError(f"state_file {path}: cannot be written: {error.strerror or error}") from error
        self._saved_s = time.monotonic()
        self._saved_drains = drained

    def _read(self) -> tuple[list[str], dict[str, Any], float]:
        """The drained nodes, the policy's parts, and how long ago that was; of the first copy that can be read."""
        for path in self._files:
            try:
                state = json.loads(path.read_text(encoding="utf-8"))
                drained, parts = state["drained"], state.get("policy", {})
                if not isinstance(drained, list) or not isinstance(parts, dict):
                    raise ValueError("drained is no list, or policy no table")
                return [str(node) for node in drained], parts, time.time() - float(state.get("saved_unix_s", 0.0))
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                aside = path.with_name(path.name + ".unreadable")
                path.replace(aside)
                _log.error("state_unreadable", file=str(path), kept_as=str(aside), why=str(error))
            except OSError as error:
                raise OperatorError(f"state_file {path}: cannot be read: {error.strerror or error}") from error
        return [], {}, 0.0


def finite(value: Any) -> Any:
    """The same with null for times that did not come: JSON has no nan."""
    if isinstance(value, dict):
        return {str(name): finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
