"""F24: downloads are damaged on their way."""

from __future__ import annotations

from tests.sim.test_faults import client_sees, failed_of
from tests.sim.worlds import NodeBench


def test_the_pull_fails_at_its_end_and_answers_go_on() -> None:
    record = client_sees({"kind": "bad_pull"}, workload__duration_s=90)
    assert failed_of(record) == set()
    (fault,) = record.table("faults").to_pylist()
    assert fault["detail"].endswith("pull of llama3.1:8b: digest mismatch, file must be downloaded again")


def test_a_pull_takes_its_time_and_a_share_of_them_is_damaged() -> None:
    bench = NodeBench()
    bench.node.conditions.set("fault", "pull_damaged_share", 0.5)
    ended: list[tuple[float, str]] = []
    for start_s in (0.0, 100.0):
        bench.at(start_s, bench.node.files.pull, "a", lambda error: ended.append((bench.engine.now, error)))
    bench.run()
    assert ended == [(40.2, ""), (140.2, "digest mismatch, file must be downloaded again")]  # 4 GiB at 0.1 GiB/s
    assert bench.node.files.pulls_failed == 1
