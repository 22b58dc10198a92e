"""F31: two versions of Ollama mean different things by the same name."""

from __future__ import annotations

import pytest

from tests.sim.test_faults import client_sees, rows


def test_the_same_prompts_count_more_and_the_derived_speed_is_wrong() -> None:
    record = client_sees(
        {"kind": "version_drift", "cached_share": 0.6, "duration_s": 20},
        cluster__hardware={"decode_ms": [10.0], "prefill_tokens_per_s": 1000, "vram_gib": 24, "load_gib_per_s": 2.0},
        workload__prompt_tokens={"kind": "constant", "mean": 100},
    )
    served = rows(record)
    assert {(row["outcome"], row["answer"]) for row in served} == {("succeeded", "right")}
    for row in served:
        drifted = 20.5 <= row["end_s"] < 40.5
        assert row["prompt_eval_count"] == (250 if drifted else 100)
        speed = row["prompt_eval_count"] / row["prompt_eval_duration_s"]
        assert speed == pytest.approx(2500 if drifted else 1000, rel=0.2)
