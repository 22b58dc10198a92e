"""One real Ollama server as a node of the rig: its life, the faults of its processes, and its hardware."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import psutil

from live.hands.process import DEATH_LIMIT_S
from live.rig.access_log import AccessLog
from live.rig.errors import RigError
from live.rig.foreign import ForeignCallers
from live.rig.ledger import Ledger
from live.rig.machine import Cgroup, cgroup_support
from live.rig.model_folder import CONDITIONS, ModelFolder
from live.rig.processes import ManagedProcess, free_port, plain_environment
from twin.scenario.faults.base import ForeignClients

START_LIMIT_S = 30.0
ANSWER_LIMIT_S = 5.0
STOP_GRACE_S = 3.0


class OllamaNode:
    """A RigNode that is a real `ollama serve` on a port of its own, with a shared folder of models.

    It needs 48 MB, and 40 to 60 MB for each loaded model. `folder` is where its log and its HOME lie; `cores` pins it.
    It gets a cgroup of its own where the machine permits one; `refused_hardware` says what is not permitted.
    """

    def __init__(
        self,
        name: str,
        *,
        ollama: Path,
        models: Path,
        folder: Path,
        ledger: Ledger,
        cores: Sequence[int] | None = None,
        slots_per_model: int = 4,
        max_loaded_models: int = 3,
        load_timeout_s: float = 300.0,
        keep_alive_s: float | None = None,
    ) -> None:
        self._name = name
        self._folder = folder
        self._ledger = ledger
        self._port = free_port()
        self._models = ModelFolder(models, folder / "models")
        self._cgroup = Cgroup.plan(f"{ledger.token}-{name}")
        environment = {
            **plain_environment(),
            "HOME": str(folder),
            "OLLAMA_HOST": f"127.0.0.1:{self._port}",
            "OLLAMA_MODELS": str(self._models.path),
            "OLLAMA_NUM_PARALLEL": str(slots_per_model),
            "OLLAMA_MAX_LOADED_MODELS": str(max_loaded_models),
            "OLLAMA_LOAD_TIMEOUT": f"{load_timeout_s:g}s",
            "OLLAMA_KEEP_ALIVE": "-1" if keep_alive_s is None else f"{keep_alive_s:g}s",
            # What a drill has damaged is to stay, and is put back by it.
            "OLLAMA_NOPRUNE": "1",
            "OLLAMA_NOHISTORY": "1",
            # Otherwise it asks its makers for model recommendations at every start.
            "OLLAMA_NO_CLOUD": "1",
            # A node's hardware are its cores; a graphics card would be shared by all nodes.
            "CUDA_VISIBLE_DEVICES": "-1",
            "HIP_VISIBLE_DEVICES": "-1",
            "ROCR_VISIBLE_DEVICES": "-1",
        }
        self._foreign: ForeignCallers | None = None
        self._access_log = AccessLog(folder / "ollama.log")
        self._process = ManagedProcess(
            name,
            [ollama, "serve"],
            ledger=ledger,
            log=folder / "ollama.log",
            environment=environment,
            cores=cores,
            cgroup=self._cgroup,
        )

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
        """Ollama's own log, appended to over restarts."""
        return self._process.log

    @property
    def refused_hardware(self) -> str:
        """What of its hardware cannot be controlled here, in one line; empty if nothing."""
        return cgroup_support().refused

    async def start(self) -> None:
        """Starts the server and returns once it answers; no model is loaded yet. Raises ProcessFailed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(self._models.make)
        self._ledger.add_cgroup(self._cgroup)
        self._cgroup.create()
        await self._process.start(f"{self.address}/api/version", START_LIMIT_S)

    async def stop(self) -> None:
        """Ends it, hung or not, and removes its cgroup. Raises RigError when something of it stays."""
        await self.stop_foreign_clients()
        await self._process.stop(STOP_GRACE_S)
        await asyncio.to_thread(self._cgroup.remove)
        self._ledger.remove_cgroup(self._cgroup)

    async def restart(self) -> None:
        """Ends what is left of it, hung runners included, and starts it again on the same port."""
        await self._process.stop(STOP_GRACE_S)
        await self.start()

    def server_alive(self) -> bool:
        """Whether the server process runs; a hung one does."""
        return self._process.is_alive()

    def pids(self) -> list[int]:
        """The server's process and its runners'; empty while it is down."""
        return [self._process.pid, *self.runner_pids()] if self.server_alive() else []

    async def stick_loader(self) -> None:
        """Cannot be done: no signal deadlocks the scheduler alone. Raises RigError."""
        raise RigError(f"the scheduler of {self._name} cannot be deadlocked from outside; use an emulated node")

    async def garble_runner(self, share: float) -> None:
        """Cannot be done. Raises RigError."""
        raise RigError(f"{share:.0%} of the answers of {self._name} cannot be garbled; use an emulated node")

    async def expire_models(self) -> None:
        """`keep_alive: 0` for every model that `/api/ps` names. Raises RigError where it does not answer."""
        limit = aiohttp.ClientTimeout(total=ANSWER_LIMIT_S)
        try:
            async with aiohttp.ClientSession(self.address, timeout=limit) as client:
                async with client.get("/api/ps") as answer:
                    loaded = (await answer.json()).get("models") or []
                for model in loaded:
                    body = {"model": model["name"], "keep_alive": 0}
                    async with client.post("/api/generate", json=body) as answer:
                        await answer.read()
        except (TimeoutError, aiohttp.ClientError) as error:
            raise RigError(f"{self._name} did not let its models go: {error}; see {self.log}") from error

    async def foreign_clients(self, clients: ForeignClients, model: str, seed: int) -> None:
        """They ask its own port. Raises RigError where they want models of their own."""
        if clients.own_models != "none":
            raise RigError(f"{self._name} has no models of other clients; use an emulated node")
        await self.stop_foreign_clients()
        self._foreign = ForeignCallers(self.address, model, clients, seed)
        self._foreign.start()

    async def stop_foreign_clients(self) -> None:
        """They hang up."""
        if self._foreign is not None:
            await self._foreign.stop()
            self._foreign = None

    async def set_condition(self, name: str, value: float) -> None:
        """Damages its model files, or puts them back; all else cannot be done. Raises RigError."""
        if name in CONDITIONS:
            await asyncio.to_thread(self._models.set, name, value)
            return
        raise RigError(f"{name} of {self._name} cannot be set to {value:g}; use an emulated node")

    def runner_pids(self) -> list[int]:
        """The runners, one process for each loaded model; Ollama's short-lived search for graphics cards is none."""
        runners = []
        for child in self._process.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "--model" in child.cmdline():
                    runners.append(child.pid)
        return runners

    def served_generations(self) -> int:
        """How many generations its access log has with status 200, over all starts.

        Ollama writes 200 for a stream that broke in the middle too, and for a mere load or unload.
        """
        return self._access_log.generations()

    async def kill_server(self) -> None:
        """SIGKILL to the server and then to its runners, which Ollama would leave behind as orphans."""
        await self._process.kill()

    async def kill_runner(self) -> None:
        """SIGKILL to every runner, gone on return; the server notices, and loads again at the next request."""
        killed = self._signal_runners(signal.SIGKILL)
        deadline_s = time.monotonic() + DEATH_LIMIT_S
        while killed & set(self.runner_pids()):
            if time.monotonic() > deadline_s:
                raise RigError(f"{self._name}: its runners {sorted(killed)} do not die; look for them in state D")
            await asyncio.sleep(0.005)

    async def pause_runner(self) -> None:
        """SIGSTOP to every runner: generations hang without end, everything else answers."""
        self._signal_runners(signal.SIGSTOP)

    async def resume_runner(self) -> None:
        """SIGCONT to every runner; Ollama may have replaced a paused one by itself, which is no error."""
        for pid in self.runner_pids():
            _signal(pid, signal.SIGCONT)

    def _signal_runners(self, number: signal.Signals) -> set[int]:
        pids = self.runner_pids()
        if not pids:
            raise RigError(f"{self._name} has no runner to {number.name}: no model is loaded; send it a request first")
        for pid in pids:
            _signal(pid, number)
        return set(pids)

    async def throttle(self, core_share: float) -> None:
        """Holds server and runners to a share of one core, as heat does. Raises NotPermitted."""
        self._cgroup.set_cpu_quota(core_share)

    async def unthrottle(self) -> None:
        """Takes the quota away."""
        self._cgroup.clear_cpu_quota()

    async def limit_memory(self, limit_bytes: int) -> None:
        """Limits server and runners together; the kernel kills what asks for more. Raises NotPermitted.

        The small models of the rig need little: the server about 10 MB of its own, a DEFAULT runner 25 MB. Killing the
        runner and then limiting to 25 MB makes every load die; at 20 MB the server dies with it. Cgroups of version 1
        refuse a limit below what is in use and cannot be freed: a RigError.
        """
        await asyncio.to_thread(self._cgroup.set_memory_limit, limit_bytes)

    async def unlimit_memory(self) -> None:
        """Takes the memory limit away."""
        self._cgroup.clear_memory_limit()

    async def freeze(self) -> None:
        """Freezes server and runners: connections are still accepted by the kernel, nothing is answered."""
        self._cgroup.freeze()

    async def thaw(self) -> None:
        """Lets a frozen node go on."""
        self._cgroup.thaw()


def _signal(pid: int, number: signal.Signals) -> None:
    """Sends a signal to a process that may have ended in this moment."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
