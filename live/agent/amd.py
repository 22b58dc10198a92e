"""AMD GPUs, through the files that the Linux driver amdgpu keeps in /sys.

Files and units are those of the kernel's documentation (gpu/amdgpu/thermal and gpu/amdgpu/driver-misc): busy in per cent,
VRAM in bytes, hwmon temperatures in thousandths of a degree, power in microwatts, clocks in Hz. RAS error counts are in
`ras/umc_err_count` (lines `ue: N` and `ce: N`) on cards that have it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from live.agent.sources import Values

GIB = 1 << 30
VENDOR_AMD = "0x1002"


class AmdGpus:
    """Reads all AMD GPUs of the machine as one; what a card does not tell is null."""

    def __init__(self, root: Path = Path("/sys/class/drm")) -> None:
        self._root = root

    def read(self) -> Values:
        """Their values now."""
        cards = self._cards()
        if not cards:
            return {}
        busy = _each(cards, lambda card: _number(card / "gpu_busy_percent"))
        used = _each(cards, lambda card: _number(card / "mem_info_vram_used"))
        total = _each(cards, lambda card: _number(card / "mem_info_vram_total"))
        temperature = _each(cards, lambda card: _sensor(card, "temp1_input"))
        clock = _each(cards, lambda card: _sensor(card, "freq1_input"))
        power = _each(cards, lambda card: _first(_sensor(card, "power1_average"), _sensor(card, "power1_input")))
        corrected = _each(cards, lambda card: _ras(card, "ce"))
        uncorrected = _each(cards, lambda card: _ras(card, "ue"))
        return {
            "gpu_utilisation": sum(busy) / len(busy) / 100.0 if busy else None,
            "vram_used_gib": sum(used) / GIB if used else None,
            "vram_total_gib": sum(total) / GIB if total else None,
            "gpu_temperature_c": max(temperature) / 1000.0 if temperature else None,
            "gpu_clock_mhz": min(clock) / 1e6 if clock else None,
            "gpu_power_w": sum(power) / 1e6 if power else None,
            "gpu_errors_corrected": sum(corrected) if corrected else None,
            "gpu_errors_uncorrected": sum(uncorrected) if uncorrected else None,
        }

    def _cards(self) -> list[Path]:
        """The device folders of AMD's cards; connectors (card0-DP-1) are none."""
        folders = [card / "device" for card in sorted(self._root.glob("card*")) if "-" not in card.name]
        return [folder for folder in folders if _text(folder / "vendor") == VENDOR_AMD]


def _each(cards: Sequence[Path], ask: Callable[[Path], float | None]) -> list[float]:
    """The answers of all cards; none where one of them has no answer."""
    answers = [ask(card) for card in cards]
    known = [answer for answer in answers if answer is not None]
    return known if len(known) == len(answers) else []


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # not there, or the card sleeps
        return ""


def _number(file: Path) -> float | None:
    try:
        return float(_text(file))
    except ValueError:
        return None


def _sensor(card: Path, name: str) -> float | None:
    return next(
        (value for file in sorted(card.glob(f"hwmon/hwmon*/{name}")) if (value := _number(file)) is not None), None
    )


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _ras(card: Path, kind: str) -> float | None:
    for line in _text(card / "ras" / "umc_err_count").splitlines():
        name, _, count = line.partition(":")
        if name.strip() == kind and count.strip().isdigit():
            return float(count)
    return None
