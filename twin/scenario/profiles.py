"""Common machines, by name. Each number is a maker's data sheet's, a measurement of others, or an assumption named so.

Decoding: where somebody measured an 8B model at Q4_K_M, that; else the time to read 4.6 GiB at the bandwidth of the data
sheet times the efficiency of its class (`decode_step_ms`). Prefill likewise: measured, else the class's efficiency
x peak 16-bit operations / (2 x 8e9 operations a token). `source` says which:

- XD: llama.cpp, 8B Q4_K_M, 1,024 tokens (github.com/XiongjieDai/GPU-Benchmarks-on-LLM-Inference, May 2024);
- PK: llama.cpp, 9B Q4_K_M of 5.7 GB, scaled to 4.9 GB (pavlokhmel.com, "LLM throughput benchmark on 13 GPUs and 10
  models", June 2026); prefill estimated;
- NB: llama.cpp, llama3.1:8b Q4_K_M, 128 tokens (github.com/brand-o/normiebench, issues 3 and 40, 2026);
- estimate: bandwidth and operations of the data sheet, by the method above.

What is around the GPU (main memory, cores, disk), and its cooling, are assumptions throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from twin.scenario.hardware import MILLISECONDS_PER_S, REFERENCE_MODEL_GIB, Hardware, Thermal, decode_step_ms

MemoryClass: TypeAlias = Literal["gddr", "hbm", "unified", "ddr"]


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What a kind of memory and its processors make of their data sheets when they run an 8B model."""

    bandwidth: float  # share that decoding one sequence reaches
    operations: float  # share of peak 16-bit operations that a prefill reaches
    batch_growth: float  # share of a single step that each further sequence of the batch adds
    source: str


EFFICIENCIES: dict[MemoryClass, Efficiency] = {
    "gddr": Efficiency(0.70, 0.70, 0.10, "medians of XD (0.59 to 0.80; 0.67 to 0.91); growth: assumption"),
    "hbm": Efficiency(0.33, 0.20, 0.04, "PK (A100 0.34, H100 0.32); XD for 7B f16 on A100 (0.23); growth: assumption"),
    "unified": Efficiency(0.60, 0.65, 0.17, "medians of XD and NB (0.43 to 0.86; 0.55 to 0.84); growth: assumption"),
    "ddr": Efficiency(0.70, 0.50, 0.20, "llama.cpp issue 34 (13900K, DDR5-6400: 0.73); the rest: assumption"),
}
"""Batch growth is to be replaced by a calibration of one's own machine."""

OPERATIONS_PER_TOKEN = 2 * 8e9
SEQUENCES = 16
"""The batch is given up to here."""

SPLIT_COST = 0.04
"""XD: two RTX 4090 decode 4.1 % slower than one, two RTX 3090 3.3 %; four 7.9 % and 6.1 %."""

PC_RAM_GB_PER_S = 80.0
"""Two channels of DDR5-5200 (data sheet: 83): what layers without room on the GPU are read at."""
SERVER_RAM_GB_PER_S = 200.0
"""Eight channels of DDR4-3200 (data sheet: 205)."""
CPU_SLOWDOWN_LIMITS = (5.0, 20.0)
"""What users report for models in main memory (ollama/ollama issues 14258, 13002, 12922)."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One line of the table. A rate of 0 was not measured."""

    memory: MemoryClass
    vram_gib: float
    bandwidth_gb_per_s: float  # data sheet
    tera_operations_per_s: float  # data sheet: 16 bits, dense
    full_w: float  # data sheet: power limit
    clock_mhz: float  # data sheet: boost
    source: str = "estimate"
    tokens_per_s: float = 0.0  # measured: one sequence of an 8B model
    prefill_tokens_per_s: float = 0.0  # measured
    server: bool = False  # in a server: more memory and cores, error counters, more air
    ram_gib: float = 64.0
    cores: int = 16
    load_gib_per_s: float = 2.0  # one NVMe disk

    def hardware(self) -> Hardware:
        """As the node model takes it."""
        efficiency = EFFICIENCIES[self.memory]
        single_ms = decode_step_ms(REFERENCE_MODEL_GIB, self.bandwidth_gb_per_s, efficiency.bandwidth)
        if self.tokens_per_s:
            single_ms = MILLISECONDS_PER_S / self.tokens_per_s
        prefill = efficiency.operations * self.tera_operations_per_s * 1e12 / OPERATIONS_PER_TOKEN
        low, high = CPU_SLOWDOWN_LIMITS
        ram_gb_per_s = SERVER_RAM_GB_PER_S if self.server else PC_RAM_GB_PER_S
        return Hardware(
            decode_ms=[round(single_ms * (1.0 + efficiency.batch_growth * more), 2) for more in range(SEQUENCES)],
            prefill_tokens_per_s=round(self.prefill_tokens_per_s or prefill, 1),
            vram_gib=self.vram_gib,
            load_gib_per_s=self.load_gib_per_s,
            reference_model_gib=REFERENCE_MODEL_GIB,
            kind="apple" if self.memory == "unified" else "cpu" if self.memory == "ddr" else "nvidia",
            split_cost=SPLIT_COST,
            cpu_slowdown=round(min(high, max(low, self.bandwidth_gb_per_s / ram_gb_per_s)), 1),
            ram_gib=self.ram_gib,
            cores=self.cores,
            error_counters=self.server and self.memory in ("gddr", "hbm"),
            thermal=self._thermal(),
        )

    def _thermal(self) -> Thermal:
        if self.memory in ("unified", "ddr"):  # processors run hotter, and throttle at 100 °C (makers' data sheets)
            return Thermal(
                idle_w=0.1 * self.full_w,
                full_w=self.full_w,
                full_c=80.0,
                throttle_c=100.0,
                clock_mhz=self.clock_mhz,
                idle_clock_mhz=0.3 * self.clock_mhz,
            )
        return Thermal(idle_w=0.06 * self.full_w, full_w=self.full_w, clock_mhz=self.clock_mhz)


TABLE: dict[str, Profile] = {
    "rtx-3060": Profile("gddr", 12, 360, 25.5, 170, 1777, ram_gib=32, cores=8, load_gib_per_s=1.5),
    "rtx-3090": Profile("gddr", 24, 936, 71, 350, 1695, "XD", 111.74, 3865),
    "rtx-4060-ti": Profile("gddr", 16, 288, 44, 165, 2535, ram_gib=32, cores=8, load_gib_per_s=1.5),
    "rtx-4070": Profile("gddr", 12, 504, 58, 200, 2475, ram_gib=32, cores=12),
    "rtx-4080": Profile("gddr", 16, 717, 97, 320, 2505, "XD", 106.22, 5065),
    "rtx-4090": Profile("gddr", 24, 1008, 165, 450, 2520, "XD", 127.74, 6899),
    "rtx-5090": Profile("gddr", 32, 1792, 209, 575, 2407),
    # A10 and L4: half the data sheet's operations, since their power limit holds their clock down (assumption).
    "a10": Profile("gddr", 24, 600, 62, 150, 1695, server=True, ram_gib=256, cores=32),
    "l4": Profile("gddr", 24, 300, 60, 72, 2040, server=True, ram_gib=256, cores=32),
    "a100": Profile(
        "hbm", 80, 2039, 312, 400, 1410, "PK", 143, 0, server=True, ram_gib=512, cores=64, load_gib_per_s=4
    ),
    "h100": Profile(
        "hbm", 80, 3350, 989, 700, 1980, "PK", 221, 0, server=True, ram_gib=512, cores=64, load_gib_per_s=4
    ),
    "h200": Profile(
        "hbm", 141, 4800, 989, 700, 1980, "PK", 229, 0, server=True, ram_gib=512, cores=64, load_gib_per_s=4
    ),
    # Of unified memory the GPU may have 70 % up to 32 GiB and about 75 % above (XD).
    "m1": Profile("unified", 11, 68, 2.6, 15, 1278, ram_gib=16, cores=8, load_gib_per_s=1.5),
    "m1-pro": Profile("unified", 22, 200, 5.2, 30, 1296, ram_gib=32, cores=10),
    "m1-max": Profile("unified", 48, 400, 10.4, 60, 1296, "NB", 46.2, 499.6, ram_gib=64, cores=10, load_gib_per_s=3),
    "m1-ultra": Profile("unified", 96, 800, 20.8, 110, 1296, ram_gib=128, cores=20, load_gib_per_s=3),
    "m2": Profile("unified", 16, 100, 3.6, 18, 1398, ram_gib=24, cores=8, load_gib_per_s=1.5),
    "m2-pro": Profile("unified", 22, 200, 6.8, 35, 1398, ram_gib=32, cores=12),
    "m2-max": Profile("unified", 48, 400, 13.6, 70, 1398, ram_gib=64, cores=12, load_gib_per_s=3),
    "m2-ultra": Profile(
        "unified", 96, 800, 27.2, 120, 1398, "XD", 76.28, 1024, ram_gib=128, cores=24, load_gib_per_s=3
    ),
    "m3": Profile("unified", 16, 100, 4.1, 20, 1380, ram_gib=24, cores=8, load_gib_per_s=1.5),
    "m3-pro": Profile("unified", 27, 150, 7.4, 35, 1380, ram_gib=36, cores=12),
    "m3-max": Profile("unified", 48, 400, 16.4, 75, 1380, "XD", 50.74, 678, ram_gib=64, cores=16, load_gib_per_s=3),
    "m3-ultra": Profile("unified", 192, 819, 32.8, 140, 1380, ram_gib=256, cores=32, load_gib_per_s=3),
    "m4": Profile("unified", 11, 120, 4.3, 22, 1470, "NB", 20.87, 224.8, ram_gib=16, cores=10, load_gib_per_s=1.5),
    "m4-pro": Profile("unified", 36, 273, 8.6, 45, 1578, ram_gib=48, cores=14),
    "m4-max": Profile("unified", 96, 546, 17.2, 90, 1578, ram_gib=128, cores=16, load_gib_per_s=3),
    # The GPU's part is what models may have of main memory; operations are those of the vector units (assumption).
    "cpu-16-core": Profile("ddr", 48, PC_RAM_GB_PER_S, 1.6, 150, 4500, ram_gib=64, cores=16, load_gib_per_s=1.5),
    "cpu-64-core": Profile("ddr", 192, SERVER_RAM_GB_PER_S, 4.8, 280, 3400, server=True, ram_gib=256, cores=64),
}
"""Name to line."""

PROFILES: dict[str, Hardware] = {name: line.hardware() for name, line in TABLE.items()}
"""Name to machine."""
