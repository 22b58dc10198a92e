"""An operator's own command as a hand: `systemctl --host {node} restart ollama`, a script, a call to a cloud's tool."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Mapping, Sequence

from live.hands.protocol import HandError, HandResult
from twin.policy.vocabulary import Action, ActionKind

OUTPUT_KEPT_BYTES = 4096
READ_BYTES = 4096
OUTPUT_GRACE_S = 0.2
_PLACEHOLDER = re.compile(r"\{(?:node|model|address)\}")


class CommandHands:
    """Runs the operator's command for a kind of action, without a shell.

    `{node}`, `{model}` and `{address}` in its words are filled in, each within its word, so that no value can add a
    word or a second command. Exit status 0 is done, any other failed with the last line that the command printed.
    Whoever is late is killed with all that it started.
    """

    def __init__(self, commands: Mapping[ActionKind, Sequence[str]], addresses: Mapping[str, str]) -> None:
        self._commands = commands
        self._addresses = addresses

    async def perform(self, action: Action) -> HandResult:
        """Run the command to its end."""
        command = self._commands.get(action.kind)
        if not command:
            return HandResult("failed", f"no command is configured for {action.kind} of {action.node}")
        values = {"{node}": action.node, "{model}": action.model, "{address}": self._addresses.get(action.node, "")}
        words = [_filled(word, values) for word in command]
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # a group of its own, to be ended as a whole
            )
        except OSError as error:
            raise HandError(f"{words[0]} cannot be started: {error.strerror}") from error
        assert process.stdout is not None
        tail = _Tail()
        reading = asyncio.create_task(tail.read(process.stdout))
        try:
            status = await process.wait()
            # A service that it leaves behind may hold its output open; that is no reason to wait.
            await asyncio.wait({reading}, timeout=OUTPUT_GRACE_S)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            raise
        finally:
            reading.cancel()
        if status == 0:
            return HandResult("done")
        lines = tail.kept.decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        return HandResult("failed", f"{words[0]} ended with status {status}: {said}")


def _filled(word: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: values[found[0]], word)


class _Tail:
    """The end of what a command prints; the rest is read and dropped, so that a talkative one does not block."""

    def __init__(self) -> None:
        self.kept = b""

    async def read(self, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(READ_BYTES):
            self.kept = (self.kept + data)[-OUTPUT_KEPT_BYTES:]
