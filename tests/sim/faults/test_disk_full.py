"""F25: no room for a pull; what is there is served."""

from __future__ import annotations

from tests.sim.test_faults import client_sees, failed_of
from tests.sim.worlds import NodeBench


def test_the_pull_fails_and_answers_go_on() -> None:
    record = client_sees({"kind": "disk_full", "at_s": 40, "lead_s": 30}, workload__duration_s=60)
    assert failed_of(record) == set()
    (fault,) = record.table("faults").to_pylist()
    assert fault["detail"].endswith("pull of llama3.1:8b: no space left on device")
    free_gib = {row["time_s"]: row["disk_free_gib"] for row in record.table("telemetry").to_pylist()}
    assert free_gib[5.0] > 900.0
    assert 100.0 < free_gib[35.0] < 400.0, "it is seen beforehand"
    assert free_gib[45.0] == 0.0


def test_a_pull_that_still_fits_succeeds_and_one_that_does_not_fails_when_the_disk_is_full() -> None:
    bench = NodeBench()
    free_gib = bench.node.files.disk_free_gib()
    ended: list[tuple[float, str]] = []
    for start_s, left_gib in ((0.0, 4.5), (100.0, 2.0)):
        bench.at(start_s, bench.node.conditions.set, "fault", "disk_filled_gib", free_gib - left_gib)
        bench.at(start_s, bench.node.files.pull, "a", lambda error: ended.append((round(bench.engine.now, 6), error)))
    bench.run()
    assert ended == [(40.2, ""), (120.2, "no space left on device")]
