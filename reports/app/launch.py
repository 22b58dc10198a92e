"""`ollamamax dashboard`: Streamlit with the app, on loopback, until Ctrl-C."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from reports.drawing import FONT
from twin.errors import OperatorError

FIRST_PORT = 8501
PORTS_TRIED = 50
STOP_LIMIT_S = 10.0
MAIN = Path(__file__).with_name("main.py")
LOOKS = {
    "theme.font": FONT,
    "theme.baseRadius": "small",
    "theme.light.primaryColor": "#1f6fae",
    "theme.light.backgroundColor": "#fcfcfb",
    "theme.light.secondaryBackgroundColor": "#f3f3f0",
    "theme.light.textColor": "#1f2328",
    "theme.dark.primaryColor": "#56b4e9",
    "theme.dark.backgroundColor": "#16181b",
    "theme.dark.secondaryBackgroundColor": "#1f2226",
    "theme.dark.textColor": "#e4e6e8",
    **{f"theme.{mode}.redColor": colour for mode, colour in (("light", "#a63d00"), ("dark", "#ff8f57"))},
    **{f"theme.{mode}.greenColor": colour for mode, colour in (("light", "#0b6e4f"), ("dark", "#4cc38a"))},
    **{f"theme.{mode}.orangeColor": colour for mode, colour in (("light", "#6b5300"), ("dark", "#e3bd4f"))},
    **{f"theme.{mode}.grayColor": colour for mode, colour in (("light", "#5c636b"), ("dark", "#a0a7af"))},
}
"""The same colours and typeface as those of the static page."""


def free_port(first: int = FIRST_PORT) -> int:
    """A port of loopback that nobody listens on, from `first` upwards. Raises `OperatorError` where there is none."""
    for port in range(first, first + PORTS_TRIED):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OperatorError(f"no port from {first} to {first + PORTS_TRIED - 1} is free on 127.0.0.1; give --port")


def has_browser() -> bool:
    """Whether a browser can be opened here: there is a screen, and a program that opens addresses."""
    if sys.platform == "darwin":
        return True
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(screen and shutil.which("xdg-open"))


def command(port: int, opens: bool) -> list[str]:
    """The command line that serves the app."""
    options = {
        "server.address": "127.0.0.1",
        "server.port": str(port),
        "server.headless": "false" if opens else "true",
        "server.fileWatcherType": "none",
        "server.runOnSave": "false",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "global.developmentMode": "false",
        **LOOKS,
    }
    given = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "streamlit", "run", str(MAIN), *given]


def environment(runs: Path, admin: str | None, token_file: Path | None) -> dict[str, str]:
    """What the app is told: the folder of runs, and where a controller is."""
    told = {**os.environ, "OLLAMAMAX_RUNS": str(runs)}
    told["PYTHONPATH"] = os.pathsep.join([str(MAIN.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    if admin is not None:
        told["OLLAMAMAX_ADMIN"] = admin
    if token_file is not None:
        told["OLLAMAMAX_TOKEN_FILE"] = str(token_file)
    return told


def dashboard(
    runs: Path,
    port: int | None,
    admin: str | None,
    token_file: Path | None,
    opens: bool,
    say: Callable[[str], None],
) -> int:
    """Serve until Ctrl-C; the exit status. Raises `OperatorError` where the folder or the port is no good."""
    if runs.exists() and not runs.is_dir():
        raise OperatorError(f"--runs {runs}: it is no folder; give the folder in which the runs lie")
    where = free_port(port or FIRST_PORT) if port is None else port
    if port is not None and free_port(port) != port:
        raise OperatorError(f"--port {port}: somebody listens there already; give another, or none")
    say(f"http://127.0.0.1:{where} shows {runs}; Ctrl-C ends it")
    process = subprocess.Popen(
        command(where, opens and has_browser()),
        env=environment(runs.absolute(), admin, token_file),
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for us alone; we end it
    )
    try:
        status = process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return 0
    if status:
        raise OperatorError(f"the dashboard ended by itself with status {status}; what it said stands above")
    return 0
