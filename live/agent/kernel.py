"""What the kernel knows: lines of its log that tell of a GPU fault, and how far its clock is off."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import re
import sys
from pathlib import Path

from live.agent.sources import Values

GPU_FAULT = re.compile(
    r"NVRM: Xid|GPU has fallen off the bus|amdgpu.*(?:ring \S+ timeout|GPU fault|GPU reset|fence fallback timer expired)"
)
"""NVIDIA: the driver's Xid messages. AMD: what users of ROCm report before and at a hang of the ring."""


class KernelLog:
    """Counts GPU faults in /dev/kmsg since the boot, as far back as the kernel keeps its lines."""

    def __init__(self, path: Path = Path("/dev/kmsg")) -> None:
        self._path = path
        self._file: int | None = None
        self._count = 0
        self._rest = b""

    def read(self) -> Values:
        """The count; null where the log may not be read."""
        if self._file is None:
            try:
                self._file = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
            except OSError:
                return {"gpu_fault_events": None}
        while True:
            try:
                data = os.read(self._file, 8192)  # of /dev/kmsg: one record
            except BlockingIOError:
                break
            except BrokenPipeError:
                continue  # lines were overwritten before we came; what follows is there
            if not data:
                break
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._count += sum(bool(GPU_FAULT.search(line.decode(errors="replace"))) for line in lines)
        return {"gpu_fault_events": float(self._count)}

    def close(self) -> None:
        """Close the log."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2), up to the fields that are read; the kernel fills in all 208 bytes."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 208),
    )


STA_UNSYNC = 0x0040
STA_NANO = 0x2000


class Clock:
    """The offset that a time daemon is correcting just now; null while nobody keeps the clock."""

    def read(self) -> Values:
        """Clock - true time, in seconds."""
        if not sys.platform.startswith("linux"):
            return {"clock_offset_s": None}
        timex = _Timex()
        library = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
        if library.adjtimex(ctypes.byref(timex)) < 0:  # modes is 0: it only reads
            return {"clock_offset_s": None}
        return {"clock_offset_s": offset_s(timex.offset, timex.status)}


def offset_s(offset: int, status: int) -> float | None:
    """The kernel's offset is what is to be added to the clock: nanoseconds with STA_NANO, else microseconds."""
    if status & STA_UNSYNC:
        return None
    return -offset * (1e-9 if status & STA_NANO else 1e-6)
