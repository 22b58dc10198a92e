"""An operator's own command as a hand: `systemctl --host {node} restart ollama`, a script, a call to a cloud's tool."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO

from live.hands.output import last_line
from live.hands.placeholders import filled
from live.hands.protocol import HandError, HandResult
from twin.policy.vocabulary import Action

OUTPUT_READ_BYTES = 4096
"""This much of the end of what a command printed is looked at for its last line."""


class CommandHands:
    """Runs the operator's command for a kind of action, without a shell.

    `{node}`, `{model}`, `{address}` and `{host}` in its words are filled in, each within its word, so that no value can
    add a word or a second command. Exit status 0 is done, any other failed with the last line that the command printed.
    Whoever is late is killed with all that it started.
    """

    def __init__(self, commands: Mapping[str, Sequence[str]], addresses: Mapping[str, str]) -> None:
        self._commands = commands
        self._addresses = addresses

    async def perform(self, action: Action) -> HandResult:
        """Run the command to its end."""
        command = self._commands.get(action.kind)
        address = self._addresses.get(action.node)
        if not command or address is None:
            return HandResult("failed", f"no command is configured for {action.kind} of {action.node}")
        words = [filled(word, action, address) for word in command]
        status, said = await run_command(words)
        return (
            HandResult("done")
            if status == 0
            else HandResult("failed", f"{words[0]} ended with status {status}: {said}")
        )

    async def close(self) -> None:
        """There is nothing to let go of."""


async def run_command(words: Sequence[str]) -> tuple[int, str]:
    """Run it to its end: its exit status, and the last line that it printed. Raises `HandError` where it cannot start.

    Whoever is cancelled meanwhile kills the command and all that it started.
    """
    # Its output goes to a file: a service that it leaves behind may hold a pipe open for ever.
    with tempfile.TemporaryFile() as output:
        status = await _run(words, output)
        output.seek(max(0, output.seek(0, os.SEEK_END) - OUTPUT_READ_BYTES))
        return status, last_line(output.read().decode(errors="replace"))


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
