from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.record.runs import NAN, Run, manifest
from twin.record.reader import RunUnreadable, open_run
from twin.record.schema import TABLES
from twin.record.writer import ROWS_PER_FLUSH, ROWS_PER_ROW_GROUP, Recorder, RunFolderTaken


def probe_row(index: int) -> tuple[object, ...]:
    return (float(index), f"node-{index % 3}", "generation", "m", True, 0.5, "", "gateway-0")


def test_rows_come_back_as_they_were_added_from_memory_and_from_a_folder(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "run"):
        recorder = Recorder(folder)
        recorder.probes.add((1.0, "node-0", "generation", "m", True, 0.5, "", "gateway-0"))
        recorder.probes.add((2.5, "node-1", "liveness", None, False, 1.0, "refused", "gateway-0"))
        record = recorder.close(manifest())
        assert record.table("probes", ["time_s", "node", "model", "ok", "error"]).to_pylist() == [
            {"time_s": 1.0, "node": "node-0", "model": "m", "ok": True, "error": ""},
            {"time_s": 2.5, "node": "node-1", "model": None, "ok": False, "error": "refused"},
        ]


@pytest.mark.parametrize("missing", [NAN, None])
def test_a_time_that_did_not_come_is_null(missing: float | None) -> None:
    record = Run().request(1.0, 2.0, first_token_s=missing).end()
    assert record.table("requests", ["first_token_s"]).to_pylist() == [{"first_token_s": None}]


def test_a_deadline_that_is_off_stays_infinite(tmp_path: Path) -> None:
    Run(tmp_path / "run").request(1.0, 2.0, deadline_s=float("inf")).end()
    assert open_run(tmp_path / "run").table("requests")["deadline_s"].to_pylist() == [float("inf")]


def test_every_table_is_there_even_where_nothing_happened(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.close(manifest())
    record = open_run(tmp_path / "run")
    assert {name: record.table(name).num_rows for name in TABLES} == dict.fromkeys(TABLES, 0)


def test_a_long_table_is_written_in_row_groups_while_the_run_goes_on(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    count = ROWS_PER_ROW_GROUP + ROWS_PER_FLUSH + 5
    for index in range(count):
        recorder.probes.add(probe_row(index))
        if index % 1000 == 0:
            recorder.flush_if_large()
    assert recorder.probes.pending < ROWS_PER_FLUSH
    assert len(recorder.probes.batches) * 2048 < ROWS_PER_ROW_GROUP
    recorder.close(manifest())
    assert pq.ParquetFile(tmp_path / "run" / "probes.parquet").metadata.num_row_groups == 2
    table = open_run(tmp_path / "run").table("probes")
    assert table["time_s"].to_pylist() == [float(index) for index in range(count)]
    assert table["node"].to_pylist() == [f"node-{index % 3}" for index in range(count)]


def test_until_it_is_closed_a_run_has_temporary_names_only(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    for index in range(ROWS_PER_ROW_GROUP):
        recorder.probes.add(probe_row(index))
    recorder.flush_if_large()
    assert [path.name for path in tmp_path.iterdir()] == ["probes.parquet.partial"]
    with pytest.raises(RunUnreadable, match="half-written"):
        open_run(tmp_path)
    recorder.abandon()
    with pytest.raises(RunUnreadable, match="half-written"):
        open_run(tmp_path)


def test_a_folder_of_a_broken_off_run_can_be_used_again(tmp_path: Path) -> None:
    first = Recorder(tmp_path)
    first.probes.add(probe_row(1))
    first.probes.close()
    first.abandon()
    second = Recorder(tmp_path)
    second.close(manifest())
    assert open_run(tmp_path).table("probes").num_rows == 0
    assert not list(tmp_path.glob("*.partial"))


def test_a_finished_run_is_not_overwritten(tmp_path: Path) -> None:
    Recorder(tmp_path).close(manifest())
    with pytest.raises(RunFolderTaken, match="holds a finished run already: name another folder, or remove that one"):
        Recorder(tmp_path)


def test_counters_and_row_counts_stand_in_the_manifest(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.counters["probes_passed"] = 7
    recorder.probes.add(probe_row(1))
    recorder.close(manifest(machine={"cores": 2, "limit": float("inf")}))
    written = json.loads((tmp_path / "manifest.json").read_text())
    assert written["counters"] == {"probes_passed": 7}
    assert written["rows"] == dict.fromkeys(TABLES, 0) | {"probes": 1}
    assert written["machine"] == {"cores": 2, "limit": None}


def test_a_row_that_does_not_fit_the_schema_is_refused_by_name() -> None:
    recorder = Recorder(None)
    recorder.probes.add((1.0, "node-0"))
    with pytest.raises(ValueError, match="a row for table probes does not fit its schema: 2 values for 8 columns"):
        recorder.probes.flush()


def test_a_manifest_without_what_the_figures_need_is_refused() -> None:
    with pytest.raises(ValueError, match="the manifest of a run has no number simulated_s"):
        Recorder(None).close(manifest(simulated_s=None))


def test_a_converter_is_set_before_the_first_row() -> None:
    recorder = Recorder(None)
    recorder.probes.add(probe_row(1))
    with pytest.raises(ValueError, match="table probes has rows already"):
        recorder.probes.convert_with(list)
