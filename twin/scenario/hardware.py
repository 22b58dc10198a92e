"""How fast a machine is, how much it holds and how it keeps cool: the table that a scenario may give inline.

The rates are for an 8-billion-parameter model at four bits (4.6 GiB), and scale with a model's size: decoding one step
reads all weights once, so a step's time grows with their size, and so does a prefill's. `profiles.py` has common machines.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

REFERENCE_MODEL_GIB = 4.6

GIB = 1024.0**3
MILLISECONDS_PER_S = 1000.0


def decode_step_ms(model_gib: float, bandwidth_gb_per_s: float, efficiency: float) -> float:
    """Time of one decode step of one sequence: all weights are read once, at the share `efficiency` of the bandwidth."""
    return model_gib * GIB / (bandwidth_gb_per_s * 1e9 * efficiency) * MILLISECONDS_PER_S


class Thermal(BaseModel):
    """What a GPU draws and how it is cooled. Its temperature follows its power as a first-order system: a heat capacity
    behind a thermal resistance. At `throttle_c` its clock falls as far as the cooling demands.

    The defaults are assumptions: a card that full power brings to 68 °C, with a minute for 63 % of the way.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    idle_w: Annotated[float, Field(ge=0, description="Drawn by an idle GPU.")] = 20.0
    full_w: Annotated[float, Field(gt=0, description="Drawn at full work and clock.")] = 300.0
    ambient_c: Annotated[float, Field(description="Of the air that cools it.")] = 25.0
    full_c: Annotated[float, Field(description="Reached at full work in that air.")] = 68.0
    throttle_c: Annotated[float, Field(description="Kept to by lowering the clock.")] = 84.0
    time_constant_s: Annotated[float, Field(gt=0, description="Time for 63 % of a change of temperature.")] = 60.0
    clock_mhz: Annotated[float, Field(gt=0, description="At work.")] = 1800.0
    idle_clock_mhz: Annotated[float, Field(gt=0, description="Without work.")] = 210.0
    lowest_clock_share: Annotated[float, Field(gt=0, le=1, description="The clock falls no further than this.")] = 0.3

    @model_validator(mode="after")
    def _it_holds_together(self) -> Thermal:
        if not self.ambient_c < self.full_c:
            raise ValueError(f"full_c {self.full_c:g} must be above ambient_c {self.ambient_c:g}")
        if not self.idle_w < self.full_w:
            raise ValueError(f"full_w {self.full_w:g} must be above idle_w {self.idle_w:g}")
        if not self.ambient_c < self.throttle_c:
            raise ValueError(f"throttle_c {self.throttle_c:g} must be above ambient_c {self.ambient_c:g}")
        return self

    @property
    def resistance_c_per_w(self) -> float:
        """Degrees above the air for each watt."""
        return (self.full_c - self.ambient_c) / self.full_w


class Calibration(BaseModel):
    """Where the rates of a machine were measured: the twin gives no advice outside of it (`ollamamax calibrate`)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Annotated[str, Field(min_length=1, description="Of the profile.")]
    batch_max: Annotated[int, Field(ge=1, description="Sequences in a batch that were seen often enough.")]
    prompt_tokens: Annotated[
        list[float], Field(min_length=2, max_length=2, description="Between them lie nine in ten that were seen.")
    ]
    output_tokens: Annotated[
        list[float], Field(min_length=2, max_length=2, description="Between them lie nine in ten that were seen.")
    ]
    models: Annotated[list[str], Field(min_length=1, description="That ran there.")]
    nodes_each: Annotated[int, Field(ge=1, description="Nodes that shared a processor there.")] = 1
    extrapolate: Annotated[
        bool, Field(description="Run what lies outside all the same; its figures are guesses then.")
    ] = False


class Hardware(BaseModel):
    """One machine. In a scenario either a profile's name or this table."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    decode_ms: Annotated[
        list[Annotated[float, Field(gt=0)]],
        Field(
            min_length=1,
            description="Time of one decode step with 1, 2, 3 ... sequences in the batch; the last holds on.",
        ),
    ]
    prefill_tokens_per_s: Annotated[
        float | None, Field(gt=0, description="Speed of prompt evaluation; null: it takes no time.")
    ]
    vram_gib: Annotated[
        float,
        Field(gt=0, description="Memory that models must fit in: of each GPU; without one, their part of main memory."),
    ]
    load_gib_per_s: Annotated[float, Field(gt=0, description="Speed of loading weights.")]
    runner_start_s: Annotated[
        float, Field(ge=0, description="Start of a runner process, before any weight is read.")
    ] = 0.3
    prefill_growth_us: Annotated[
        float, Field(ge=0, description="What a token of a prompt takes longer for each token before it: attention.")
    ] = 0.0
    server_ms: Annotated[
        float, Field(ge=0, description="Time of the server itself for a request, before a runner has it.")
    ] = 0.0
    server_cv: Annotated[
        float,
        Field(ge=0, le=3, description="Coefficient of variation of that time, and of what is waited for to join."),
    ] = 0.0
    joining_ms: Annotated[
        float,
        Field(
            ge=0,
            description="What a request waits for beyond that, where a batch is at work, before its prompt is begun.",
        ),
    ] = 0.0
    joining_steps: Annotated[
        float,
        Field(ge=0, description="Decode steps of that batch that it waits for, too."),
    ] = 0.0
    reference_model_gib: Annotated[
        float | None,
        Field(gt=0, description="Size of the model that the rates are for; null: they hold for every model."),
    ] = None
    kind: Annotated[
        Literal["nvidia", "amd", "apple", "cpu"],
        Field(description="What an agent can read there. apple: GPU and processor share memory. cpu: no GPU."),
    ] = "nvidia"
    gpus: Annotated[int, Field(ge=1, le=16, description="GPUs of that memory each; 1 for apple and cpu.")] = 1
    split_cost: Annotated[
        float,
        Field(ge=0, description="Share that a step takes longer for each further GPU that a model is split over."),
    ] = 0.04
    cpu_slowdown: Annotated[
        float, Field(ge=1, description="Times that the layers in main memory take as long as those on a GPU.")
    ] = 10.0
    ram_gib: Annotated[float, Field(gt=0, description="Main memory.")] = 64.0
    swap_gib: Annotated[float, Field(ge=0)] = 8.0
    disk_gib: Annotated[float, Field(gt=0, description="Of the disk with the models.")] = 1000.0
    cores: Annotated[int, Field(ge=1, description="Of the processor.")] = 16
    error_counters: Annotated[
        bool, Field(description="Whether its memory counts errors (ECC): data-centre cards do, most others do not.")
    ] = True
    thermal: Thermal = Thermal()
    calibration: Annotated[
        Calibration | None, Field(description="Where it was measured; null: it was not, the numbers are what they are.")
    ] = None

    @model_validator(mode="after")
    def _it_is_possible(self) -> Hardware:
        if self.kind in ("apple", "cpu"):
            if self.gpus != 1:
                raise ValueError(f"gpus: a machine of kind {self.kind} counts as one, not {self.gpus}")
            if self.vram_gib > self.ram_gib and "ram_gib" in self.model_fields_set:
                raise ValueError(f"vram_gib {self.vram_gib:g} is part of ram_gib {self.ram_gib:g}, which is less")
        return self

    @property
    def has_gpu_memory(self) -> bool:
        """Whether its GPUs have memory of their own, which a driver takes and gives back."""
        return self.kind in ("nvidia", "amd")

    @property
    def total_vram_gib(self) -> float:
        """Memory that models must fit in, of all GPUs."""
        return self.vram_gib * self.gpus

    @property
    def main_memory_gib(self) -> float:
        """Main memory; never less than the part of it that models may have."""
        return self.ram_gib if self.has_gpu_memory else max(self.ram_gib, self.vram_gib)
