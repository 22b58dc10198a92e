"""Apple silicon, through `powermetrics` (part of macOS; needs root): how busy, how fast and how thirsty the GPU is.

`powermetrics --samplers gpu_power -f plist` prints one property list: `gpu.idle_ratio` (0..1), `gpu.freq_hz` (which holds
MHz on the chips seen by others; values above a million are taken as Hz) and `gpu.gpu_energy` in millijoules over
`elapsed_ns`. This machine-dependent form is an assumption until it has been run on a Mac of yours.
"""

from __future__ import annotations

import plistlib
import shutil
import subprocess
import sys
from collections.abc import Callable

from live.agent.sources import Values

COMMAND = ("powermetrics", "--samplers", "gpu_power", "-f", "plist", "-n", "1", "-i", "200")
LIMIT_S = 5.0


def run_powermetrics() -> bytes:
    """One sample as it prints it. Raises OSError or subprocess.SubprocessError."""
    return subprocess.run(COMMAND, capture_output=True, timeout=LIMIT_S, check=True).stdout


def has_powermetrics() -> bool:
    """Whether this is a Mac with the tool."""
    return sys.platform == "darwin" and shutil.which(COMMAND[0]) is not None


class AppleGpu:
    """Reads the GPU of an Apple chip. Its memory is the machine's own."""

    def __init__(self, run: Callable[[], bytes] = run_powermetrics) -> None:
        self._run = run

    def read(self) -> Values:
        """Its values over the last fifth of a second."""
        sample = plistlib.loads(self._run().split(b"\0")[0])
        gpu = sample.get("gpu", {})
        idle, frequency, energy_mj = gpu.get("idle_ratio"), gpu.get("freq_hz"), gpu.get("gpu_energy")
        elapsed_ns = sample.get("elapsed_ns")
        return {
            "gpu_utilisation": None if idle is None else 1.0 - float(idle),
            "gpu_clock_mhz": None if frequency is None else float(frequency) / (1e6 if frequency > 1e6 else 1.0),
            "gpu_power_w": None if energy_mj is None or not elapsed_ns else energy_mj * 1e-3 / (elapsed_ns * 1e-9),
        }
