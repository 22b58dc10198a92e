"""One emulated Ollama as a node of the rig: the same life and the same faults, of a machine that is only modelled."""

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import aiohttp

import live
from live.emulator.config import EmulatedModel, EmulatorConfig
from live.rig.access_log import AccessLog
from live.rig.errors import RigError
from live.rig.ledger import Ledger
from live.rig.processes import ManagedProcess, free_port, plain_environment
from twin.scenario.conditions import CONDITIONS
from twin.scenario.faults.base import ForeignClients, Operation
from twin.scenario.hardware import Hardware

START_LIMIT_S = 30.0
STOP_GRACE_S = 3.0
ANSWER_LIMIT_S = 5.0
NO_MEMORY_LIMIT = "not emulated: memory limits (an emulated node does not use the memory that it stands for)"


class EmulatedNode:
    """A RigNode that is an emulator process on a port of its own, about 45 MB.

    `folder` is where its log and its configuration lie; `cores` pins it. With `preloaded` every new server process has
    these models loaded at once, where a real one starts empty. Its hardware is a model, so `throttle` needs no
    permission of this machine.
    """

    def __init__(
        self,
        name: str,
        *,
        hardware: Hardware,
        models: Mapping[str, EmulatedModel],
        folder: Path,
        ledger: Ledger,
        cores: Sequence[int] | None = None,
        slots_per_model: int = 4,
        max_queue: int = 512,
        keep_alive_s: float | None = None,
        preloaded: Sequence[str] = (),
    ) -> None:
        self._name = name
        self._folder = folder
        self._port = free_port()
        self._slowdown = 1.0
        self._conditions: dict[str, float] = {}  # those that are not neutral
        self._foreign: dict[str, Any] | None = None  # the order that brought its foreign clients
        self._frozen = False
        self._paused_by_freeze = False
        self._paused = False
        self._config = EmulatorConfig(
            listen=f"127.0.0.1:{self._port}",
            hardware=hardware,
            models=dict(models),
            slots=slots_per_model,
            keep_alive_s=keep_alive_s,
            max_queue=max_queue,
            preloaded=list(preloaded),
        )
        self._access_log = AccessLog(folder / "emulator.log")
        self._process = ManagedProcess(
            name,
            [sys.executable, "-m", "live.emulator", self._config_file],
            ledger=ledger,
            log=folder / "emulator.log",
            # The rig may run from anywhere, and its process has the code.
            environment={**plain_environment(), "PYTHONPATH": str(Path(live.__file__).parents[1])},
            cores=cores,
        )

    @property
    def _config_file(self) -> Path:
        return self._folder / "emulator.json"

    @property
    def name(self) -> str:
        """The node's name in the scenario."""
        return self._name

    @property
    def address(self) -> str:
        """Where it serves, "http://127.0.0.1:PORT"; the same over restarts."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def log(self) -> Path:
        """The emulator's output, appended to over restarts; a line for each generation as in Ollama's access log."""
        return self._process.log

    @property
    def refused_hardware(self) -> str:
        """What of its hardware is not emulated, in one line."""
        return NO_MEMORY_LIMIT

    async def start(self) -> None:
        """Starts the server and returns once it answers. Raises ProcessFailed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._config_file.write_text(self._config.model_dump_json())
        self._frozen = self._paused = self._paused_by_freeze = False
        # A search for GPUs that takes its time: the emulator itself would answer at once.
        await asyncio.sleep(self._conditions.get("start_added_s", 0.0))
        await self._process.start(f"{self.address}/api/version", START_LIMIT_S)
        if self._slowdown != 1.0:
            await self._operate("slow_gpu", self._slowdown)  # the heat does not go with the process
        for condition, value in self._conditions.items():
            await self._operate("set_condition", value, condition)
        if self._conditions:
            await self._operate("start_server")
        if self._foreign is not None:
            await self._operate("foreign_clients", **self._foreign)

    async def stop(self) -> None:
        """Ends it, hung or not. Raises RigError when something of it stays."""
        self._continue()
        await self._process.stop(STOP_GRACE_S)

    async def restart(self) -> None:
        """Ends what is left of it and starts it again on the same port."""
        await self.stop()
        await self.start()

    def server_alive(self) -> bool:
        """Whether the server process runs; a hung one does."""
        return self._process.is_alive()

    def runner_pids(self) -> Sequence[int]:
        """Always empty: the runners are modelled inside the server process, and no signal reaches one of them."""
        return ()

    def pids(self) -> Sequence[int]:
        """The one process that it is; none while it is down."""
        return [self._process.pid] if self.server_alive() else []

    def served_generations(self) -> int:
        """How many generations its access log has with status 200, over all starts.

        As with Ollama, a stream that broke in the middle and a mere load or unload count too.
        """
        return self._access_log.generations()

    async def kill_server(self) -> None:
        """SIGKILL to the emulator: server and runners are gone at once."""
        await self._process.kill()

    async def kill_runner(self) -> None:
        """Its runners die, also one that is loading. Raises RigError when there is none."""
        await self._operate("kill_runner")

    async def pause_runner(self) -> None:
        """Its runners hang. Raises RigError when no model is loaded."""
        await self._operate("pause_runner")
        self._paused = True

    async def resume_runner(self) -> None:
        """Paused runners go on."""
        await self._operate("resume_runner")
        self._paused = False

    async def stick_loader(self) -> None:
        """Its loading routine stops until the server is restarted; no real node can be told to."""
        await self._operate("stick_loader")

    async def garble_runner(self, share: float) -> None:
        """That share of the loaded models' answers is gibberish, until they are loaded anew."""
        await self._operate("garble_runner", share)

    async def expire_models(self) -> None:
        """Its models are let go once they are idle."""
        await self._operate("expire_models")

    async def foreign_clients(self, clients: ForeignClients, model: str, seed: int) -> None:
        """They are simulated with it, also after a restart; `model` is the first of its configuration."""
        self._foreign = {"argument": seed, "foreign": dataclasses.asdict(clients)}
        if self.server_alive():
            await self._operate("foreign_clients", **self._foreign)

    async def stop_foreign_clients(self) -> None:
        """They hang up."""
        self._foreign = None
        if self.server_alive():
            await self._operate("stop_foreign_clients")

    async def set_condition(self, name: str, value: float) -> None:
        """This condition holds from now on, also after a restart; for a node that is down, from its start."""
        if value == CONDITIONS[name].neutral:
            self._conditions.pop(name, None)
        else:
            self._conditions[name] = value
        if self.server_alive():
            await self._operate("set_condition", value, name)

    async def slow_gpu(self, factor: float) -> None:
        """Every step, prefill and load takes this many times as long, also after a restart; 1 is as it was."""
        await self._operate("slow_gpu", factor)
        self._slowdown = factor

    async def throttle(self, core_share: float) -> None:
        """Makes everything that runners do take 1 / `core_share` times as long."""
        if core_share <= 0.0:
            raise RigError(f"a share of {core_share:g} of a core would stop the node; use freeze for that")
        await self.slow_gpu(1.0 / core_share)

    async def unthrottle(self) -> None:
        """Takes the slowness away."""
        await self.slow_gpu(1.0)

    async def limit_memory(self, limit_bytes: int) -> None:
        """Raises RigError: memory limits are not emulated."""
        raise RigError(f"{self._name} cannot be limited to {limit_bytes} bytes: {NO_MEMORY_LIMIT}; use a real node")

    async def unlimit_memory(self) -> None:
        """Nothing: there is no limit."""

    async def freeze(self) -> None:
        """Stops the process. Its runners are paused first, because the model's clock is the machine's and goes on.

        A load that is under way is not held up: after `thaw` it has gone on.
        """
        if self._frozen:
            return
        if not self._paused:
            self._paused_by_freeze = await self._pause_if_loaded()
        self._process.send(signal.SIGSTOP)
        self._frozen = True

    async def thaw(self) -> None:
        """Lets a frozen node go on."""
        if not self._frozen:
            return
        self._continue()
        if self._paused_by_freeze:
            await self._operate("resume_runner")
            self._paused_by_freeze = False

    def _continue(self) -> None:
        """A stopped process acts on no SIGTERM."""
        self._frozen = False
        if self.server_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGCONT)

    async def _pause_if_loaded(self) -> bool:
        """Whether there was a runner to pause."""
        return await self._ask("pause_runner", 0.0) == ""

    async def _operate(
        self,
        operation: Operation | Literal["stop_foreign_clients"],
        argument: float = 0.0,
        condition: str = "",
        foreign: dict[str, Any] | None = None,
    ) -> None:
        refusal = await self._ask(operation, argument, condition, foreign)
        if refusal:
            raise RigError(f"{self._name}: {refusal}")

    async def _ask(
        self, operation: str, argument: float, condition: str = "", foreign: dict[str, Any] | None = None
    ) -> str:
        """Sends an operation to the control endpoint; why it was refused, empty if it was done."""
        if not self.server_alive():
            raise RigError(f"{self._name} is not running, so {operation} is impossible; start it first")
        body = {"operation": operation, "argument": argument, "condition": condition, "foreign": foreign}
        try:
            async with (
                aiohttp.ClientSession(self.address, timeout=aiohttp.ClientTimeout(total=ANSWER_LIMIT_S)) as client,
                client.post("/emulator/operation", json=body) as answer,
            ):
                return "" if answer.status == 200 else str((await answer.json())["error"])
        except (TimeoutError, aiohttp.ClientError) as error:
            what = str(error) or f"no answer within {ANSWER_LIMIT_S:g} s"
            raise RigError(f"{self._name} did not do {operation}: {what}; see {self.log}") from error
