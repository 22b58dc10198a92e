"""F26: an upgrade after which no model can be loaded."""

from __future__ import annotations

from tests.sim.test_faults import client_sees, outcomes, took_s


def test_after_the_upgrade_every_load_fails_when_its_runner_has_started() -> None:
    record = client_sees({"kind": "incompatible_model", "upgrade_s": 4.0, "duration_s": 20})
    seen = outcomes(record)
    assert {seen[second][1].split(":")[0] for second in (19, 20)} == {"reset"}
    assert {seen[second][1].split(":")[0] for second in (21, 22, 23, 24)} == {"refused"}
    assert {seen[second][1].split(":")[0] for second in range(25, 40)} == {"server_error"}
    assert abs(took_s(record)[25] - 0.7) < 0.01, "as long as a runner takes to start"
    assert seen[41][0] == "succeeded", "the version before is back"
