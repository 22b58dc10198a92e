"""The Ollama server process dies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from twin.scenario.faults.base import About, Fault, Step


class ServerCrash(Fault):
    """The server and its runners die; the port refuses. Somebody outside restarts it after `duration_s`."""

    about = About(
        kind="server_crash",
        identifier="F06",
        what="the Ollama server dies, with its runners (out of memory, a failed assertion, a killed container)",
        symptom="streams break without a terminal record; new connections are refused; after a restart every model is cold",
        precursor="none: what has one, memory that falls before the kernel kills, is host_out_of_memory",
        source="ollama/ollama issues 9685, 6238, 11231",
        ended_by_restart=True,
        live="SIGKILL to the server and its runners; on your own cluster by a command",
    )
    kind: Literal["server_crash"]

    def onset(self) -> Iterator[Step]:
        """Kill it."""
        yield Step(0.0, "kill_server")

    def ending(self) -> Iterator[Step]:
        """The service manager, or a person, starts it again."""
        yield Step(0.0, "start_server")
