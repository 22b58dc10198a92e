"""Conditions: what can be out of order in a node without a process dying. One table; faults set them by name.

A fault sets a condition to a value with the operation `set_condition`; what it set is withdrawn when it ends, so no
fault has to put anything back. Where several faults set the same condition of a node, the values are combined as the
table says. The mechanism that a condition drives stands in the module named in its row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Combination: TypeAlias = Literal["sum", "product", "maximum", "minimum"]
Part: TypeAlias = Literal["node", "gateway", "clients"]
"""What a condition, and so a fault, belongs to."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One row of the table."""

    neutral: float  # its value while nobody sets it
    combine: Combination
    what: str  # with the unit
    read_by: str  # the module whose mechanism it drives
    part: Part = "node"


CONDITIONS: dict[str, Condition] = {
    "load_failure_share": Condition(0.0, "maximum", "share of loads that die half way", "twin/sim/malfunctions.py"),
    "step_factor": Condition(
        1.0, "product", "times that every step and prefill takes as long", "twin/sim/malfunctions.py"
    ),
    "fatal_request_share": Condition(
        0.0, "maximum", "share of requests whose content kills the runner", "twin/sim/malfunctions.py"
    ),
    "fatal_prompt_tokens": Condition(
        math.inf, "minimum", "a prompt of more tokens kills the runner", "twin/sim/malfunctions.py"
    ),
    "silent_end_share": Condition(
        0.0, "maximum", "share of generations that end without a terminal record", "twin/sim/malfunctions.py"
    ),
    "hang_after_requests": Condition(
        math.inf, "minimum", "a runner hangs when it has taken so many requests", "twin/sim/malfunctions.py"
    ),
    "gpu_lost": Condition(0.0, "maximum", "1: whatever needs the GPU fails at once", "twin/sim/malfunctions.py"),
    "runner_unkillable": Condition(
        0.0, "maximum", "1: a runner that is to be let go does not die", "twin/sim/malfunctions.py"
    ),
    "unload_holds_lock": Condition(
        0.0,
        "maximum",
        "1: while it does not die, the server's lock on what is loaded is held",
        "twin/sim/malfunctions.py",
    ),
    # Memory. Those of the GPUs are GiB on each GPU of the node; they take room from loads, and kill nothing by themselves.
    "vram_leaked_gib": Condition(0.0, "sum", "GPU memory that nobody gave back, GiB on each GPU", "twin/sim/memory.py"),
    "vram_foreign_gib": Condition(0.0, "sum", "GPU memory of other programs, GiB on each GPU", "twin/sim/memory.py"),
    "vram_leaked_gib_per_unload": Condition(
        0.0, "sum", "GPU memory that each unload leaves behind until the server ends, GiB", "twin/sim/memory.py"
    ),
    "vram_return_added_s": Condition(
        0.0, "sum", "the driver gives memory back this much later; above 5 s loads find less", "twin/sim/memory.py"
    ),
    "gpus_lost": Condition(
        0.0, "maximum", "GPUs that new loads do not see; what is loaded goes on", "twin/sim/memory.py"
    ),
    "ram_leaked_gib": Condition(
        0.0, "sum", "main memory that other programs take, GiB; beyond swap the kernel kills", "twin/sim/memory.py"
    ),
    "load_speed_factor": Condition(1.0, "product", "times the usual speed of loading weights", "twin/sim/node.py"),
    "vram_grabbed_share": Condition(
        0.0, "maximum", "share of the GPU memory free at that moment that others take", "twin/sim/malfunctions.py"
    ),
    "load_need_factor": Condition(
        1.0, "product", "times the GPU memory that a load takes, against what was predicted", "twin/sim/malfunctions.py"
    ),
    "ram_grabbed_share": Condition(
        0.0,
        "maximum",
        "share of the free main memory that a leak takes; above 1 it is killed",
        "twin/sim/malfunctions.py",
    ),
    "ram_leak_in_server": Condition(
        0.0, "maximum", "1: that leak is the server's, else the largest runner's", "twin/sim/malfunctions.py"
    ),
    "ps_claims_gpu": Condition(
        0.0, "maximum", "1: /api/ps says that models lie in GPU memory, wherever they are", "twin/sim/memory.py"
    ),
    "gpu_unreadable": Condition(0.0, "maximum", "1: an agent can read nothing of the GPUs", "twin/sim/machine.py"),
    # The machine's body.
    "ambient_added_c": Condition(0.0, "sum", "the air is this much warmer", "twin/sim/machine.py"),
    "cooling_factor": Condition(1.0, "product", "times the usual heat carried away per degree", "twin/sim/machine.py"),
    "gpu_clock_factor": Condition(
        1.0, "product", "times the usual clock; work slows down with it", "twin/sim/machine.py"
    ),
    "gpu_power_factor": Condition(
        1.0, "product", "times the usual power, with nothing else changed", "twin/sim/machine.py"
    ),
    "gpu_utilisation_floor": Condition(
        0.0, "maximum", "the GPU shows at least this utilisation, 0 to 1, worked or not", "twin/sim/machine.py"
    ),
    "processor_busy_share": Condition(0.0, "sum", "share of all cores that others use", "twin/sim/machine.py"),
    "disk_filled_gib": Condition(0.0, "sum", "disk space that others take, GiB", "twin/sim/machine.py"),
    "open_files_leaked": Condition(0.0, "sum", "file descriptors that the server never closed", "twin/sim/machine.py"),
    "orphan_processes": Condition(0.0, "sum", "runners without a server", "twin/sim/machine.py"),
    "clock_offset_s": Condition(0.0, "sum", "the machine's clock is this much ahead", "twin/sim/machine.py"),
    # Counters: events a second; they come at random times of a Poisson process.
    "corrected_error_rate_per_s": Condition(0.0, "sum", "corrected errors of GPU memory", "twin/sim/machine.py"),
    "uncorrected_error_rate_per_s": Condition(0.0, "sum", "uncorrected errors of GPU memory", "twin/sim/machine.py"),
    "gpu_fault_event_rate_per_s": Condition(
        0.0, "sum", "lines of the kernel's log on GPU faults (Xid and the like)", "twin/sim/machine.py"
    ),
    "network_error_rate_per_s": Condition(0.0, "sum", "packets in error or dropped", "twin/sim/machine.py"),
    "error_line_rate_per_s": Condition(0.0, "sum", "error lines of Ollama's log", "twin/sim/machine.py"),
    "disk_filled_share": Condition(
        0.0, "maximum", "share of the free disk space that others take", "twin/sim/model_files.py"
    ),
    "start_added_s": Condition(0.0, "maximum", "a new server process answers this much later, s", "twin/sim/node.py"),
    "loads_stalled": Condition(0.0, "maximum", "1: loads make no progress", "twin/sim/stalls.py"),
    "ends_forgotten_share": Condition(
        0.0,
        "maximum",
        "share of clients' disconnects that the gateway does not notice",
        "twin/sim/gateway.py",
        "gateway",
    ),
    "alias_share": Condition(
        0.0,
        "maximum",
        "share of requests that call their model by another of its names",
        "twin/sim/clients.py",
        "clients",
    ),
    "model_files_truncated": Condition(
        0.0, "maximum", "1: the files are too short to be loaded", "twin/sim/model_files.py"
    ),
    "model_files_missing": Condition(0.0, "maximum", "1: the files are gone from the disk", "twin/sim/model_files.py"),
    "models_incompatible": Condition(
        0.0, "maximum", "1: this version of Ollama cannot read the files", "twin/sim/model_files.py"
    ),
    "pull_damaged_share": Condition(
        0.0, "maximum", "share of pulls that end with another digest", "twin/sim/model_files.py"
    ),
    "registry_unresolvable": Condition(
        0.0, "maximum", "1: the registry's name cannot be resolved", "twin/sim/model_files.py"
    ),
    "registry_untrusted": Condition(
        0.0, "maximum", "1: the registry's certificate is not accepted", "twin/sim/model_files.py"
    ),
    "context_limit_tokens": Condition(1e9, "minimum", "longest context that runners keep", "twin/sim/answers.py"),
    "runaway_share": Condition(0.0, "maximum", "share of generations that never end", "twin/sim/answers.py"),
    "prompt_count_factor": Condition(
        1.0, "product", "prompt tokens that are reported for each one that was evaluated", "twin/sim/answers.py"
    ),
}
"""Name to row."""


def combined(name: str, values: Iterable[float]) -> float:
    """The value that holds where these are set at once."""
    row = CONDITIONS[name]
    given = list(values)
    if not given:
        return row.neutral
    if row.combine == "sum":
        return math.fsum(given)
    if row.combine == "product":
        return math.prod(given)
    return max(given) if row.combine == "maximum" else min(given)
