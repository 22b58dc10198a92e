"""NVIDIA GPUs, through the driver's own library (nvidia-ml-py, imported as pynvml).

The functions and their units are those of NVIDIA's NVML API reference: utilisation in per cent, memory in bytes, power in
milliwatts, clocks in MHz, temperature in degrees Celsius.
"""

# ruff: noqa: D102 (what is asked of the library is documented by its maker)
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from live.agent.sources import Values

GIB = 1 << 30
T = TypeVar("T")


class Nvml(Protocol):
    """What is used of the module pynvml; a test gives another with recorded answers."""

    NVMLError: type[Exception]
    NVML_TEMPERATURE_GPU: int
    NVML_CLOCK_SM: int
    NVML_MEMORY_ERROR_TYPE_CORRECTED: int
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED: int
    NVML_VOLATILE_ECC: int

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...
    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any: ...
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any: ...
    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int: ...
    def nvmlDeviceGetClockInfo(self, handle: Any, kind: int) -> int: ...
    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int: ...
    def nvmlDeviceGetTotalEccErrors(self, handle: Any, error_type: int, counter_type: int) -> int: ...


def installed_nvml() -> Nvml | None:
    """The library of this machine's driver; None where there is no driver."""
    import pynvml  # noqa: PLC0415  # only where an agent runs

    try:
        pynvml.nvmlInit()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
    library: Nvml = pynvml
    return library


class NvidiaGpus:
    """Reads all NVIDIA GPUs of the machine as one; what a card does not support is null."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._ready = False

    def read(self) -> Values:
        """Their values now. A driver that lost a GPU says so by an error: then the library is opened anew next time."""
        nvml = self._nvml
        try:
            if not self._ready:
                nvml.nvmlInit()
                self._ready = True
            handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        except nvml.NVMLError:
            self.close()
            raise
        if not handles:
            return {}
        rates = self._each(handles, nvml.nvmlDeviceGetUtilizationRates)
        memory = self._each(handles, nvml.nvmlDeviceGetMemoryInfo)
        temperature = self._each(handles, lambda it: nvml.nvmlDeviceGetTemperature(it, nvml.NVML_TEMPERATURE_GPU))
        clocks = self._each(handles, lambda it: nvml.nvmlDeviceGetClockInfo(it, nvml.NVML_CLOCK_SM))
        power = self._each(handles, nvml.nvmlDeviceGetPowerUsage)
        corrected = self._each(handles, lambda it: self._errors(it, nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED))
        uncorrected = self._each(handles, lambda it: self._errors(it, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED))
        return {
            "gpu_utilisation": sum(it.gpu for it in rates) / len(rates) / 100.0 if rates else None,
            "vram_used_gib": sum(it.used for it in memory) / GIB if memory else None,
            "vram_total_gib": sum(it.total for it in memory) / GIB if memory else None,
            "gpu_temperature_c": float(max(temperature)) if temperature else None,
            "gpu_clock_mhz": float(min(clocks)) if clocks else None,
            "gpu_power_w": sum(power) / 1000.0 if power else None,
            "gpu_errors_corrected": float(sum(corrected)) if corrected else None,
            "gpu_errors_uncorrected": float(sum(uncorrected)) if uncorrected else None,
        }

    def close(self) -> None:
        """Let go of the driver."""
        if self._ready:
            self._ready = False
            self._nvml.nvmlShutdown()

    def _errors(self, handle: Any, kind: int) -> int:
        return self._nvml.nvmlDeviceGetTotalEccErrors(handle, kind, self._nvml.NVML_VOLATILE_ECC)

    def _each(self, handles: Sequence[Any], ask: Callable[[Any], T]) -> list[T]:
        """The answers of all GPUs; none where one of them has no answer: a sum over some would be a wrong one."""
        try:
            return [ask(handle) for handle in handles]
        except self._nvml.NVMLError:
            return []
