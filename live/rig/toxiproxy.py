"""The network between the gateway and the nodes: a real Toxiproxy server with one proxy for each edge.

The faults are named by what they mean. Where Toxiproxy differs from a real network:

- It accepts a connection before it opens its own to the node. So a node whose server is down looks like one that
  accepts and hangs up at once; `refuse` is what a missing server looks like to its clients.
- A connection to a black hole is accepted too, and only then silent. When the node itself closes one, or refuses it,
  the client sees that.
- Healing a black hole closes the connections that were in it, where TCP would have sent again.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from toxiproxy import Proxy, Toxiproxy
from toxiproxy.exceptions import InvalidToxic, NotFound, ProxyExists

from live.rig.errors import RigError
from live.rig.ledger import Ledger
from live.rig.processes import ManagedProcess, free_port, plain_environment

T = TypeVar("T")
START_LIMIT_S = 15.0
DOWNSTREAM, UPSTREAM = "downstream", "upstream"


class ToxiproxyGone(RigError):
    """The Toxiproxy server died or does not answer: the state of the network is unknown, so the run must be aborted."""


class NetworkFault(StrEnum):
    """What can be wrong with an edge; several may be at once."""

    SLOW = "slow"
    BLACK_HOLE = "black_hole"
    BLACK_HOLE_REQUESTS = "black_hole_requests"
    BLACK_HOLE_ANSWERS = "black_hole_answers"
    REFUSE = "refuse"
    RESET = "reset"
    BANDWIDTH = "bandwidth"


# Attributes of one toxic; the type of the toxic and the streams that it goes on.
Attributes = dict[str, int]
_TOXICS: Mapping[NetworkFault, tuple[str, tuple[str, ...]]] = {
    NetworkFault.SLOW: ("latency", (DOWNSTREAM,)),
    # Answers first: no client may get a byte whose request was still let through.
    NetworkFault.BLACK_HOLE: ("timeout", (DOWNSTREAM, UPSTREAM)),
    NetworkFault.BLACK_HOLE_REQUESTS: ("timeout", (UPSTREAM,)),
    NetworkFault.BLACK_HOLE_ANSWERS: ("timeout", (DOWNSTREAM,)),
    NetworkFault.RESET: ("reset_peer", (DOWNSTREAM, UPSTREAM)),
    NetworkFault.BANDWIDTH: ("bandwidth", (DOWNSTREAM, UPSTREAM)),
}


class ToxiproxyNetwork:
    """A real Toxiproxy server on a port of its own, and one proxy for each node.

    One at a time in a process, because the client library keeps a single server address. Methods raise ToxiproxyGone
    when the server does not answer within `answer_limit_s`, and RigError when it does not do what it was told. A fault
    that is already there is replaced by the new one of its kind.
    """

    _running: "ToxiproxyNetwork | None" = None

    def __init__(
        self, *, server: Path, log: Path, ledger: Ledger, port: int | None = None, answer_limit_s: float = 5.0
    ) -> None:
        self._answer_limit_s = answer_limit_s
        self._port = free_port() if port is None else port
        self._process = ManagedProcess(
            "toxiproxy",
            [server, "-host", "127.0.0.1", "-port", str(self._port)],
            ledger=ledger,
            log=log,
            environment={**plain_environment(), "LOG_LEVEL": "warn"},
        )
        self._client = Toxiproxy()
        self._proxies: dict[str, Proxy] = {}
        # The library blocks without a limit: one thread of our own, so that at most one call ever hangs.
        self._thread: ThreadPoolExecutor | None = None

    @property
    def pid(self) -> int:
        """The process id of the server. Raises ProcessFailed while it is not running."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the server process runs."""
        return self._process.is_alive()

    async def start(self) -> None:
        """Starts the server. Raises ProcessFailed, also when its port is in use."""
        if ToxiproxyNetwork._running is not None:
            raise RigError(
                "this process runs a Toxiproxy already, and its client library knows only one; stop it first"
            )
        await self._process.start(f"http://127.0.0.1:{self._port}/version", START_LIMIT_S)
        ToxiproxyNetwork._running = self
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="toxiproxy")
        _keep_http_proxies_off_loopback()
        self._client.update_api_consumer("127.0.0.1", self._port)

    async def stop(self) -> None:
        """Ends the server, and with it every proxy and connection. May be called twice."""
        await self._process.kill()  # there is nothing for it to put in order, and a hung one would not listen
        if self._thread is not None:
            self._thread.shutdown(wait=False)
            self._thread = None
        self._proxies.clear()
        if ToxiproxyNetwork._running is self:
            ToxiproxyNetwork._running = None

    async def add_edge(self, node: str, node_address: str) -> str:
        """Puts a proxy before a node; returns the address that the gateway must use instead, "http://127.0.0.1:PORT"."""
        upstream = urlsplit(node_address).netloc
        # Its own choice of port would be one that outgoing connections take while the proxy refuses.
        listen = f"127.0.0.1:{free_port()}"

        def create() -> Proxy:
            self._client.create(upstream, node, listen, enabled=True)
            return self._read(node)

        self._proxies[node] = await self._call(f"adding the edge to {node}", create)
        return f"http://{listen}"

    async def slow(self, node: str, latency_ms: int, jitter_ms: int = 0) -> None:
        """Every answer of the node arrives `latency_ms` later, give or take `jitter_ms`; streams keep their pace."""
        await self._set(node, NetworkFault.SLOW, {"latency": latency_ms, "jitter": jitter_ms})

    async def black_hole(self, node: str, kind: NetworkFault = NetworkFault.BLACK_HOLE) -> None:
        """A partition: not a byte passes, on old and new connections, and none is closed.

        `kind`: in which direction; `BLACK_HOLE` is both, the others stop only the requests or only the answers.
        """
        await self._set(node, kind, {"timeout": 0})

    async def refuse(self, node: str) -> None:
        """New connections are refused, as when nothing listens; the ones that were open are closed."""
        await self._set(node, NetworkFault.REFUSE, {})

    async def reset(self, node: str) -> None:
        """Connections are cut off at the next byte that either side sends; new ones by a TCP reset.

        Connections that were open before are closed rather than reset: Toxiproxy prepares a reset only at the start
        of a connection.
        """
        await self._set(node, NetworkFault.RESET, {"timeout": 0})

    async def limit_bandwidth(self, node: str, kb_per_s: int) -> None:
        """The edge carries no more than `kb_per_s` kilobytes a second in each direction, for each connection."""
        if kb_per_s <= 0:
            raise RigError(f"a bandwidth of {kb_per_s} kB/s would be no limit to Toxiproxy; use black_hole to stop all")
        await self._set(node, NetworkFault.BANDWIDTH, {"rate": kb_per_s})

    async def restore(self, node: str, fault: NetworkFault | None = None) -> None:
        """Takes one fault, or all, from an edge; no error where there is none.

        The end of a black hole closes the connections that were in it.
        """

        def clear() -> None:
            faults = list(NetworkFault) if fault is None else [fault]
            for kind in faults:
                self._clear(node, kind)
            left = self._faults(node) & set(faults)
            if left:
                raise RigError(f"the edge to {node} is still {_names(left)}: Toxiproxy did not restore it")

        self._require(node)
        await self._call(f"restoring the edge to {node}", clear)

    async def restore_all(self) -> None:
        """Takes every fault from every edge."""

        def clear() -> None:
            self._client.reset()
            broken = {name: self._faults(name) for name in self._proxies}
            for name, faults in broken.items():
                if faults:
                    raise RigError(f"the edge to {name} is still {_names(faults)}: Toxiproxy did not restore it")

        await self._call("restoring every edge", clear)

    async def faults(self, node: str) -> frozenset[NetworkFault]:
        """What is wrong with an edge now, as Toxiproxy itself says."""
        self._require(node)
        return await self._call(f"reading the edge to {node}", lambda: self._faults(node))

    async def _set(self, node: str, fault: NetworkFault, attributes: Attributes) -> None:
        def apply() -> None:
            if fault is NetworkFault.REFUSE:
                self._proxies[node].disable()
            else:
                self._clear(node, fault)
                kind, streams = _TOXICS[fault]
                for stream in streams:
                    name = f"{fault}_{stream}"
                    self._proxies[node].add_toxic(type=kind, stream=stream, name=name, attributes=attributes)
                    toxic = self._proxies[node].get_toxic(name)
                    if toxic is None or toxic.attributes != attributes:
                        raise RigError(f"the edge to {node} did not become {fault}: Toxiproxy has other values")
            if fault not in self._faults(node):
                raise RigError(f"the edge to {node} did not become {fault}: Toxiproxy does not show it")

        self._require(node)
        await self._call(f"making the edge to {node} {fault}", apply)

    def _require(self, node: str) -> None:
        if node not in self._proxies:
            raise RigError(f"there is no edge to {node}; there are: {', '.join(self._proxies) or 'none'}")

    # What follows runs in the thread.

    def _read(self, node: str) -> Proxy:
        proxy = self._client.get_proxy(node)
        if proxy is None:
            raise RigError(f"Toxiproxy has no edge to {node}, though it was told to make one")
        return proxy

    def _faults(self, node: str) -> frozenset[NetworkFault]:
        toxics = set(self._proxies[node].toxics())
        found = {
            fault
            for fault, (_, streams) in _TOXICS.items()
            if toxics.issuperset(f"{fault}_{stream}" for stream in streams)
        }
        if not self._read(node).enabled:
            found.add(NetworkFault.REFUSE)
        return frozenset(found)

    def _clear(self, node: str, fault: NetworkFault) -> None:
        proxy = self._proxies[node]
        if fault is NetworkFault.REFUSE:
            if not self._read(node).enabled:
                proxy.enable()
            return
        _, streams = _TOXICS[fault]
        toxics = proxy.toxics()
        for name in (f"{fault}_{stream}" for stream in streams):
            if name in toxics:
                proxy.destroy_toxic(name)

    async def _call(self, what: str, action: Callable[[], T]) -> T:
        if self._thread is None or not self._process.is_alive():
            raise ToxiproxyGone(f"Toxiproxy is not running, so {what} is impossible; see {self._process.log}")
        try:
            running = asyncio.get_running_loop().run_in_executor(self._thread, action)
            return await asyncio.wait_for(running, self._answer_limit_s)
        except TimeoutError as error:
            reason = f"Toxiproxy did not answer within {self._answer_limit_s:g} s"
            raise ToxiproxyGone(f"{reason} while {what}; see {self._process.log}") from error
        except OSError as error:  # the library's HTTP errors are OSErrors
            raise ToxiproxyGone(f"Toxiproxy broke off while {what}; see {self._process.log}") from error
        except (InvalidToxic, NotFound, ProxyExists, KeyError, TypeError) as error:
            # With the last two the library stumbles over Toxiproxy's own errors, which it does not know.
            raise RigError(f"Toxiproxy refused {what}: {error}; see {self._process.log}") from error


def _names(faults: frozenset[NetworkFault] | set[NetworkFault]) -> str:
    return " and ".join(sorted(faults))


def _keep_http_proxies_off_loopback() -> None:
    """The library would send its calls through the operator's HTTP proxy, which cannot reach our loopback."""
    for name in ("NO_PROXY", "no_proxy"):
        excepted = [host for host in os.environ.get(name, "").split(",") if host]
        if "127.0.0.1" not in excepted:
            os.environ[name] = ",".join([*excepted, "127.0.0.1"])
