"""Emulated nodes have known rates: a calibration from their records must find them again."""

from __future__ import annotations

from pathlib import Path

import pytest

from live.rig.live_world import LiveWorld
from twin.experiment.calibration.drive import drive
from twin.experiment.calibration.profile import calibrate
from twin.scenario.loader import load
from twin.scenario.profiles import PROFILES

SCENARIO = Path(__file__).parents[3] / "scenarios" / "node-crash.yaml"


@pytest.mark.long
@pytest.mark.real
def test_a_driven_calibration_recovers_the_rates_of_emulated_nodes(tmp_path: Path) -> None:
    scenario = load(SCENARIO, ["cluster.nodes=2", "cluster.models.llama3.1:8b.replicas=2"])
    sources = list(drive(LiveWorld("emulated"), scenario, tmp_path, 20.0, disrupt=True, progress=lambda line: None))
    profile = calibrate("emulated", sources)
    truth = PROFILES["rtx-4090"]
    assert profile["hardware"]["decode_ms"] == pytest.approx(truth.decode_ms[:4], rel=0.05)
    assert profile["hardware"]["prefill_tokens_per_s"] == pytest.approx(truth.prefill_tokens_per_s, rel=0.05)
    assert profile["measured"]["restart_s"]["n"] >= 1
    loaded_s = profile["measured"]["cold_s"]["median"]
    assert loaded_s == pytest.approx(truth.runner_start_s + 4.6 / truth.load_gib_per_s, rel=0.3)
