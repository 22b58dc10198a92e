"""An operator's own command as a hand: `systemctl --host {node} restart ollama`, a script, a call to a cloud's tool."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO

from live.hands.protocol import HandError, HandResult
from twin.policy.vocabulary import Action, ActionKind

OUTPUT_READ_BYTES = 4096
"""This much of the end of what a command printed is looked at for its last line."""
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
        # Its output goes to a file: a service that it leaves behind may hold a pipe open for ever.
        with tempfile.TemporaryFile() as output:
            status = await _run(words, output)
            output.seek(max(0, output.seek(0, os.SEEK_END) - OUTPUT_READ_BYTES))
            lines = output.read().decode(errors="replace").splitlines()
        if status == 0:
            return HandResult("done")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        return HandResult("failed", f"{words[0]} ended with status {status}: {said}")


def _filled(word: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: values[found[0]], word)


async def _run(words: Sequence[str], output: IO[bytes]) -> int:
    """The exit status; whoever is cancelled meanwhile kills the command and all that it started."""
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a group of its own, to be ended as a whole
        )
    except OSError as error:
        raise HandError(f"{words[0]} cannot be started: {error.strerror}") from error
    try:
        return await process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
