"""The machine, through psutil: processor, memory, disk, network."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from live.agent.sources import Values

GIB = 1 << 30
MIB = 1 << 20


class Machine:
    """Reads the operating system's counters; rates are since the last reading, and null at the first."""

    def __init__(self, models_folder: Path | None = None) -> None:
        """`models_folder`: where Ollama stores its models; the disk that counts."""
        self._models_folder = _existing(models_folder or Path.home() / ".ollama" / "models")
        self._cpu = psutil.cpu_times()
        self._read_bytes: int | None = None
        self._read_at_s = 0.0

    def read(self) -> Values:
        """Their values now."""
        memory = psutil.virtual_memory()
        errors = psutil.net_io_counters()
        return {
            "processor_utilisation": self._processor(),
            "memory_used_gib": (memory.total - memory.available) / GIB,
            "memory_total_gib": memory.total / GIB,
            "swap_used_gib": psutil.swap_memory().used / GIB,
            "disk_free_gib": psutil.disk_usage(str(self._models_folder)).free / GIB,
            "disk_read_mib_per_s": self._disk_read(),
            "network_errors": None
            if errors is None
            else float(errors.errin + errors.errout + errors.dropin + errors.dropout),
            "uptime_s": time.time() - psutil.boot_time(),
        }

    def _processor(self) -> float | None:
        """The share in use since the last reading. Not psutil's own: it would be shared by all who ask in this process."""
        before, now = self._cpu, psutil.cpu_times()
        total = sum(now[:8]) - sum(before[:8])  # guests are counted within user already
        if total <= 0.0:
            return None
        self._cpu = now
        idle = now.idle - before.idle + getattr(now, "iowait", 0.0) - getattr(before, "iowait", 0.0)
        return min(1.0, max(0.0, 1.0 - idle / total))

    def _disk_read(self) -> float | None:
        counters = psutil.disk_io_counters()
        if counters is None:
            return None  # a container without block devices
        before, before_s = self._read_bytes, self._read_at_s
        self._read_bytes, self._read_at_s = counters.read_bytes, time.monotonic()
        if before is None or self._read_at_s <= before_s:
            return None
        return max(0.0, (counters.read_bytes - before) / MIB / (self._read_at_s - before_s))


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists: Ollama makes it at its first pull."""
    return next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
