"""A model that is to be unloaded, and does not go: "Stopping..." for ever."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step


class UnloadHang(Fault):
    """The loaded models are to be let go, and their runners do not die: they hang in the kernel, and the server waits."""

    about = About(
        kind="unload_hang",
        identifier="F11",
        what="the server kills a runner, which hangs in the kernel, and waits for its end without a limit",
        symptom="/api/ps names a model past its time, or does not answer; generations hang; /api/version, /api/tags work",
        precursor="only once it is there: expires_at in the past, the latency of /api/ps",
        source="ollama/ollama issues 7779, 14364, 9617, 10119, 8969; llm/llama_server.go (stop without a limit)",
        ended_by_restart=True,
        emerges="runner_unkillable",
    )
    kind: Literal["unload_hang"]
    holds_lock: Annotated[
        bool,
        Field(description="The server's lock on what is loaded is held: nothing is generated, whatever the model."),
    ] = True

    def onset(self) -> Iterator[Step]:
        """Models are to go, and do not."""
        yield Step(0.0, "set_condition", 1.0, "runner_unkillable")
        if self.holds_lock:
            yield Step(0.0, "set_condition", 1.0, "unload_holds_lock")
        yield Step(0.0, "expire_models")

    def ending(self) -> Iterator[Step]:
        """The kernel lets go at last: what was set is withdrawn."""
        yield from ()
