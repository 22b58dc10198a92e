from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.record.runs import READ, Run, manifest
from twin.record.reader import RunUnreadable, open_run, record_digest
from twin.record.writer import Recorder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A small finished run."""
    Run(tmp_path / "run").request(1.0, 2.0).request(2.0, 4.0, node="node-1").fault(5.0).probe(6.0, False).end()
    return tmp_path / "run"


def rewrite(run: Path, **changes: Any) -> None:
    path = run / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_run_can_be_read_column_by_column(run: Path) -> None:
    record = open_run(run)
    assert record.manifest["scenario"]["name"] == "hand-made"
    assert record.table("requests", ["end_s", "node"]).to_pydict() == {
        "end_s": [2.0, 4.0],
        "node": ["node-0", "node-1"],
    }
    with pytest.raises(KeyError):
        record.table("requests", ["colour"])


def test_what_is_no_run_is_refused_with_one_line_that_says_why(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunUnreadable, match=r"nowhere is no folder; `ollamamax run SCENARIO --out DIR`"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(RunUnreadable, match=r"is no run: it has no manifest\.json"):
        open_run(tmp_path)
    (run / "faults.parquet").rename(run / "elsewhere")
    with pytest.raises(RunUnreadable, match=r"faults\.parquet is missing: the run is not whole"):
        open_run(run)
    (run / "manifest.json").unlink()
    with pytest.raises(RunUnreadable, match="is half-written"):
        open_run(run)


def test_a_damaged_manifest_is_refused(run: Path) -> None:
    (run / "manifest.json").write_text('{"scenario": ')
    with pytest.raises(RunUnreadable, match=r"manifest\.json cannot be read: Expecting value"):
        open_run(run)
    (run / "manifest.json").write_text("[]")
    with pytest.raises(RunUnreadable, match=r"manifest\.json is not an object"):
        open_run(run)


def test_another_version_of_the_record_is_refused(run: Path) -> None:
    rewrite(run, record_version=99)
    with pytest.raises(RunUnreadable, match="has record version 99, where this version reads 4"):
        open_run(run)


def test_a_damaged_or_foreign_table_is_refused(run: Path) -> None:
    (run / "probes.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(RunUnreadable, match=r"probes\.parquet cannot be read"):
        open_run(run)
    pq.write_table(pq.read_table(run / "faults.parquet"), run / "probes.parquet")
    with pytest.raises(RunUnreadable, match=r"probes\.parquet has other columns"):
        open_run(run)


def test_a_table_with_too_few_rows_is_refused(run: Path) -> None:
    pq.write_table(pq.read_table(run / "requests.parquet").slice(1), run / "requests.parquet")
    with pytest.raises(RunUnreadable, match=r"requests\.parquet has 1 rows where the manifest says 2"):
        open_run(run)


def test_the_digest_is_of_the_rows_and_not_of_how_they_are_stored(run: Path) -> None:
    digest = record_digest(open_run(run))
    in_memory = Run().request(1.0, 2.0).request(2.0, 4.0, node="node-1").fault(5.0).probe(6.0, False).end(wall_s=9.0)
    assert record_digest(in_memory) == digest
    for name in ("requests", "probes"):
        table = pq.read_table(run / f"{name}.parquet")
        pq.write_table(table, run / f"{name}.parquet", compression="none", use_dictionary=False, row_group_size=1)
    assert record_digest(open_run(run)) == digest


def test_the_digest_does_not_depend_on_when_rows_were_flushed() -> None:
    def digest(flush_every: int) -> str:
        recorder = Recorder(None)
        for index in range(50):
            missing = float("nan") if index % 7 == 0 else index * 0.5
            recorder.telemetry.add(
                (missing, f"node-{index * 31 % 5}", index, None, 2, None if index % 3 else "up", *READ)
            )
            why = "why " * (index % 4)
            recorder.actions.add((index, 1.0, "drain", "n", "m", why, 0.0, 2.0, "done", 3.0, None, "gateway-0"))
            if index % flush_every == 0:
                recorder.telemetry.flush()
                recorder.actions.flush()
        return record_digest(recorder.close(manifest()))

    assert len({digest(every) for every in (1, 3, 7, 50)}) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"end_s": 2.0000001},
        {"end_s": None},
        {"node": "node-2"},
        {"node": None},
        {"stream": False},
        {"attempts": 2},
    ],
)
def test_any_other_value_gives_another_digest(changed: dict[str, Any]) -> None:
    plain = Run().request(1.0, 2.0).end()
    run = Run()
    run.request(1.0, **({"end_s": 2.0} | changed))
    assert record_digest(run.end()) != record_digest(plain)


def test_the_order_of_rows_and_null_beside_zero_and_empty_make_a_difference() -> None:
    digests = [
        record_digest(run.end())
        for run in (
            Run().fault(1.0).fault(2.0, ended_s=0.0),
            Run().fault(2.0, ended_s=0.0).fault(1.0),
            Run().fault(1.0, ended_s=0.0).fault(2.0),
            Run().request(0.0, 1.0, error=None),
            Run().request(0.0, 1.0, error=""),
            Run().request(0.0, 1.0, error="", load_duration_s=None),
            Run().request(0.0, 1.0, node="a").request(0.0, 1.0, node="b").request(0.0, 1.0, node="b"),
            Run().request(0.0, 1.0, node="a").request(0.0, 1.0, node="b").request(0.0, 1.0, node="a"),
        )
    ]
    assert len(set(digests)) == len(digests)


def test_the_digest_is_the_same_in_another_process_with_another_hash_seed() -> None:
    program = (
        "from tests.record.runs import Run\n"
        "from twin.record.reader import record_digest\n"
        "run = Run()\n"
        "for i in range(40): run.request(float(i), i + 1.0, node=f'node-{i * 13 % 7}')\n"
        "run.recorder.counters.update({name: 1 for name in {'a', 'b', 'c'}})\n"
        "print(record_digest(run.end()))\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_a_folder_that_may_not_be_read_says_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("twin.record.reader.os.scandir", refuse)
    with pytest.raises(RunUnreadable, match="may not be read by this user"):
        open_run(run)
