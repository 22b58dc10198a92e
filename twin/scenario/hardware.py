"""Profiles of common machines, by name, and the inline table that stands for any other.

The rates are for an 8-billion-parameter model at four bits (4.7 GiB), and scale with a model's size: decoding one step
reads all weights once, so a step's time grows with their size, and so does a prefill's.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

REFERENCE_MODEL_GIB = 4.7


class Hardware(BaseModel):
    """How fast a machine is. In a scenario either a profile's name or this table."""

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
    vram_gib: Annotated[float, Field(gt=0, description="Memory that models must fit in.")]
    load_gib_per_s: Annotated[float, Field(gt=0, description="Speed of loading weights.")]
    runner_start_s: Annotated[
        float, Field(ge=0, description="Start of a runner process, before any weight is read.")
    ] = 0.3
    reference_model_gib: Annotated[
        float | None,
        Field(gt=0, description="Size of the model that the rates are for; null: they hold for every model."),
    ] = None


PROFILES: dict[str, Hardware] = {
    # Assumption, to be replaced by calibration: single-stream speeds near published llama.cpp results for 8B Q4 models;
    # growth with the batch as measured in continuous batching of llama.cpp (memory-bound up to about eight sequences).
    "rtx-4090": Hardware(
        decode_ms=[7.5, 8.2, 8.9, 9.6, 10.4, 11.2, 12.0, 12.8],
        prefill_tokens_per_s=5000,
        vram_gib=24,
        load_gib_per_s=2.0,
        reference_model_gib=REFERENCE_MODEL_GIB,
    ),
    "rtx-3060": Hardware(
        decode_ms=[19.0, 21.0, 23.0, 25.0],
        prefill_tokens_per_s=1500,
        vram_gib=12,
        load_gib_per_s=1.5,
        reference_model_gib=REFERENCE_MODEL_GIB,
    ),
    "m2-ultra": Hardware(
        decode_ms=[12.0, 14.0, 16.0, 18.0],
        prefill_tokens_per_s=1000,
        vram_gib=96,
        load_gib_per_s=3.0,
        reference_model_gib=REFERENCE_MODEL_GIB,
    ),
    "h100": Hardware(
        decode_ms=[5.0, 5.2, 5.4, 5.6, 5.8, 6.0, 6.2, 6.4],
        prefill_tokens_per_s=12000,
        vram_gib=80,
        load_gib_per_s=4.0,
        reference_model_gib=REFERENCE_MODEL_GIB,
    ),
    "cpu-16-core": Hardware(
        decode_ms=[100.0, 120.0, 140.0, 160.0],
        prefill_tokens_per_s=60,
        vram_gib=64,
        load_gib_per_s=1.5,
        reference_model_gib=REFERENCE_MODEL_GIB,
    ),
}

MODEL_SIZES_GIB: dict[str, tuple[float, float]] = {
    # name: (weights in GiB, KV cache in MiB per 1,000 tokens of context). Sizes as `ollama list` shows them for the
    # default four-bit tags; KV = 2 x layers x kv heads x head size x 2 bytes.
    "llama3.1:8b": (4.6, 125.0),
    "llama3.2:1b": (1.2, 31.0),
    "llama3.2:3b": (1.9, 109.0),
    "qwen2.5:7b": (4.4, 54.7),
    "llama3.1:70b": (40.0, 312.5),
}
