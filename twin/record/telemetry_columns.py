"""What can be read from a node's machine and its Ollama: one table that the agent, the twin and the record share.

A value that nobody can read there is null, never 0. All values are floats, counts too.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TelemetryColumn:
    """One value of a telemetry sample."""

    name: str  # as in the table `telemetry` and in `TelemetrySample.values`
    unit: str
    meaning: str
    sources: tuple[str, ...]  # who can read it on a real machine: keys of `SOURCES`


SOURCES: dict[str, str] = {
    "psutil": "the operating system, through psutil",
    "nvml": "an NVIDIA driver, through nvidia-ml-py",
    "amdgpu": "an AMD driver, through its files in /sys",
    "powermetrics": "macOS on Apple silicon, through powermetrics (needs root)",
    "kernel_log": "the kernel's log (needs the right to read it)",
    "ollama_api": "Ollama's /api/ps",
    "ollama_process": "the Ollama server's processes on the agent's machine, through psutil",
    "ollama_log": "Ollama's log file, where the agent was told of it",
    "ntp": "the kernel's clock discipline (Linux: adjtimex)",
}
"""Where a real agent reads from. The twin's nodes read the same columns from their model."""

_GPU = ("nvml", "amdgpu")

TELEMETRY_COLUMNS: tuple[TelemetryColumn, ...] = (
    TelemetryColumn("processor_utilisation", "0..1", "share of the processor time in use, all cores", ("psutil",)),
    TelemetryColumn("memory_used_gib", "GiB", "main memory that is not available for new programs", ("psutil",)),
    TelemetryColumn("memory_total_gib", "GiB", "main memory of the machine", ("psutil",)),
    TelemetryColumn("swap_used_gib", "GiB", "swap space in use", ("psutil",)),
    TelemetryColumn("gpu_utilisation", "0..1", "share of the time that the GPUs worked, mean", (*_GPU, "powermetrics")),
    TelemetryColumn("vram_used_gib", "GiB", "GPU memory in use by anyone, sum over the GPUs", _GPU),
    TelemetryColumn("vram_total_gib", "GiB", "GPU memory there is, sum over the GPUs", _GPU),
    TelemetryColumn("gpu_temperature_c", "°C", "temperature of the hottest GPU", _GPU),
    TelemetryColumn("gpu_clock_mhz", "MHz", "clock of the slowest GPU's compute units", (*_GPU, "powermetrics")),
    TelemetryColumn("gpu_power_w", "W", "power drawn by the GPUs, sum", (*_GPU, "powermetrics")),
    TelemetryColumn(
        "gpu_errors_corrected", "count", "memory errors that were corrected, since the driver started", _GPU
    ),
    TelemetryColumn(
        "gpu_errors_uncorrected", "count", "memory errors that were not corrected, since the driver started", _GPU
    ),
    TelemetryColumn(
        "gpu_fault_events",
        "count",
        "lines of the kernel's log that tell of a GPU fault (Xid and the like)",
        ("kernel_log",),
    ),
    TelemetryColumn("disk_free_gib", "GiB", "free space where the models are stored", ("psutil",)),
    TelemetryColumn("disk_read_mib_per_s", "MiB/s", "read from all disks since the last sample", ("psutil",)),
    TelemetryColumn("network_errors", "count", "packets in error or dropped, all interfaces, since boot", ("psutil",)),
    TelemetryColumn("open_files", "count", "open file descriptors of the Ollama server", ("ollama_process",)),
    TelemetryColumn("ollama_processes", "count", "the Ollama server and all runners, orphans too", ("ollama_process",)),
    TelemetryColumn("ollama_rss_gib", "GiB", "resident memory of the server and its runners", ("ollama_process",)),
    TelemetryColumn("ollama_resident_models", "count", "models that /api/ps names", ("ollama_api",)),
    TelemetryColumn("ollama_vram_gib", "GiB", "GPU memory of these models, sum of size_vram", ("ollama_api",)),
    TelemetryColumn(
        "ollama_oldest_expiry_s",
        "s",
        "now - the oldest expires_at; > 0: a model that should have gone",
        ("ollama_api",),
    ),
    TelemetryColumn(
        "ollama_error_lines", "count", "error lines in Ollama's log since the agent started", ("ollama_log",)
    ),
    TelemetryColumn("uptime_s", "s", "since the machine booted", ("psutil",)),
    TelemetryColumn(
        "clock_offset_s", "s", "the machine's clock - true time, as its clock discipline knows it", ("ntp",)
    ),
)
"""The columns, in the order of the record."""

TELEMETRY_NAMES: tuple[str, ...] = tuple(column.name for column in TELEMETRY_COLUMNS)
