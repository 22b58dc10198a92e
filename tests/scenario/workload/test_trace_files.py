"""Traces: the three formats, what is done to times and rates, and what a broken file is told."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.scenario.documents import document, scenario
from twin.errors import OperatorError
from twin.experiment.twin_world import TwinWorld
from twin.experiment.world import scenario_digest
from twin.scenario.contents import Arrival
from twin.scenario.demand import Demand
from twin.scenario.loader import changed, load
from twin.scenario.workload.trace_files import TraceError, TraceMissing, digest, read_trace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:16:46.6805900,879,0
"""
MOONCAKE = """{"timestamp": 1000, "input_length": 1200, "output_length": 50, "hash_ids": [0, 1, 2]}
{"timestamp": 3000, "input_length": 700, "output_length": 50, "hash_ids": [0, 3]}
{"timestamp": 8000, "input_length": 1900, "output_length": 60, "hash_ids": [0, 1, 4, 5]}
{"timestamp": 9000, "input_length": 2600, "output_length": 60, "hash_ids": [0, 1, 4, 6, 7, 8]}
"""
OWN = """arrival_s,prompt_tokens,output_tokens,model,stream,session,num_ctx
10,100,20,llama3.1:8b,true,anna,
12,50,10,,false,,2048
15,300,20,,no,anna,
"""


def written(tmp_path: Path, text: str, name: str = "trace.csv") -> str:
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return str(path)


def replayed(file: str, seed: int = 1, **arrivals: Any) -> list[Arrival]:
    it = scenario(
        workload__arrivals={"kind": "trace", "file": file, **arrivals},
        workload__prompt_tokens={"kind": "from_trace"},
        workload__output_tokens={"kind": "from_trace"},
        workload__duration_s=100_000,
    )
    return list(Demand(it, seed).openings())


@pytest.mark.parametrize("name", ["trace.csv", "trace.csv.gz"])
def test_an_azure_trace_is_read_with_its_times_from_the_first_request(tmp_path: Path, name: str) -> None:
    trace = read_trace(written(tmp_path, AZURE, name))
    assert trace.arrival_s.tolist() == pytest.approx([0.0, 4.314579, 60.0])
    assert trace.prompt_tokens.tolist() == [374, 396, 879]
    assert trace.output_tokens.tolist() == [44, 109, 1], "some token ended the empty answer"
    assert trace.model is None
    assert not trace.session.any()


def test_a_mooncake_trace_shows_which_requests_go_on_with_a_conversation(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, MOONCAKE, "trace.jsonl.gz"))
    assert trace.arrival_s.tolist() == [0.0, 2.0, 7.0, 8.0]
    # The third repeats blocks 0 and 1 of the first, the fourth 0, 1 and 4 of the third; block 0 alone makes no session.
    assert trace.session.tolist() == [1, 0, 1, 1]
    assert trace.shared_tokens.tolist() == [0, 0, 1024, 1536]


def test_ones_own_trace_may_name_model_streaming_session_and_context(tmp_path: Path) -> None:
    found = replayed(written(tmp_path, OWN))
    assert [arrival.arrival_s for arrival in found] == [0.0, 2.0, 5.0]
    assert [arrival.model for arrival in found] == ["llama3.1:8b"] * 3
    assert [arrival.stream for arrival in found] == [True, False, False]
    assert [arrival.context_tokens for arrival in found] == [0, 2048, 0]
    assert [(arrival.session, arrival.shared_tokens) for arrival in found] == [(1, 0), (0, 0), (1, 120)]


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        (
            AZURE.replace("396", "many"),
            "t.csv",
            r"t.csv:3: broken line \('many' is not a number of tokens\); it must be like 2023",
        ),
        (AZURE.replace("396,109", "396"), "t.csv", r"t.csv:3: broken line \(2 columns instead of 3\)"),
        (
            AZURE.replace("2023-11-16 18:15:50", "yesterday"),
            "t.csv",
            r"t.csv:3: broken line \('yesterday.* is not a time\); .*mend it or take it out",
        ),
        (AZURE.replace("18:16:46", "18:14:46"), "t.csv", "t.csv:4: it arrives 64.3146 s before the line above; sort"),
        (MOONCAKE.replace('"input_length": 700, ', ""), "t.jsonl", r"t.jsonl:2: broken line \(no input_length\)"),
        (
            MOONCAKE.replace('"output_length": 50, "hash_ids": [0, 3]}', ""),
            "t.jsonl",
            r"t.jsonl:2: broken line \(no valid JSON\)",
        ),
        (MOONCAKE.replace("3000", "NaN"), "t.jsonl", r"t.jsonl:2: broken line \(timestamp nan\)"),
        (OWN.replace("false", "maybe"), "t.csv", "t.csv:3: broken line .*neither true nor false"),
        (OWN.replace("12,50,10,,false,,2048", "12,50,10"), "t.csv", "t.csv:3: broken line .*another number of columns"),
        (OWN.replace("12,50", "12,-50"), "t.csv", r"t.csv:3: broken line \(-50 tokens\)"),
        (OWN.replace("num_ctx", "context"), "t.csv", "t.csv:1: unknown column context; known are arrival_s, prompt"),
        ("a,b\n1,2\n", "t.csv", "t.csv:1: no known format; give a CSV that begins with TIMESTAMP"),
        ("", "t.csv", "t.csv:1: no known format"),
        ("arrival_s,prompt_tokens,output_tokens\n", "t.csv", "t.csv: no request in it"),
    ],
)
def test_a_broken_trace_is_one_line_with_file_line_and_what_to_do(
    tmp_path: Path, text: str, name: str, words: str
) -> None:
    with pytest.raises(TraceError, match=words) as error:
        read_trace(written(tmp_path, text, name))
    assert "\n" not in str(error.value)


def test_a_cut_off_or_binary_file_is_one_line_too(tmp_path: Path) -> None:
    whole = gzip.compress(AZURE.encode())
    (tmp_path / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TraceError, match=r"cut\.csv\.gz: .*; give a whole file"):
        read_trace(str(tmp_path / "cut.csv.gz"))
    (tmp_path / "binary.csv").write_bytes(b"TIMESTAMP\xff\xfe\n")
    with pytest.raises(TraceError, match=r"binary\.csv: it is not UTF-8 text"):
        read_trace(str(tmp_path / "binary.csv"))
    with pytest.raises(TraceError, match="Is a directory; name a trace that can be read"):
        read_trace(str(tmp_path))


# -- times and rates ----------------------------------------------------------------------------------------------


def long_trace(tmp_path: Path, count: int = 2000) -> str:
    """A request each second; number 100 k begins a session of four turns."""
    lines = ["arrival_s,prompt_tokens,output_tokens,session"]
    lines += [f"{n},{n % 500 + 1},{n % 70 + 1},{f's{n // 100}' if n % 100 < 4 else ''}" for n in range(count)]
    return written(tmp_path, "\n".join(lines) + "\n", "long.csv")


def test_times_are_scaled_cut_at_the_front_and_limited(tmp_path: Path) -> None:
    file = long_trace(tmp_path)
    found = replayed(file, time_scale=0.5, from_s=100, limit=50)
    assert [arrival.arrival_s for arrival in found] == [0.5 * n for n in range(50)]
    assert found[7].prompt_tokens == 108


def test_below_1_the_rate_is_thinned_and_a_session_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    found = replayed(long_trace(tmp_path), rate_scale=0.3)
    assert len(found) == pytest.approx(600, abs=4 * np.sqrt(2000 * 0.3 * 0.7) + 4 * 20)
    sessions = [arrival.session for arrival in found if arrival.session]
    assert {sessions.count(session) for session in sessions} == {4}
    assert found == replayed(long_trace(tmp_path), rate_scale=0.3)
    assert found != replayed(long_trace(tmp_path), seed=2, rate_scale=0.3)


def test_above_1_shifted_copies_are_laid_over_the_trace(tmp_path: Path) -> None:
    file = long_trace(tmp_path)
    twice = replayed(file, rate_scale=2)
    assert len(twice) == 4000
    assert [arrival.arrival_s for arrival in twice] == sorted(arrival.arrival_s for arrival in twice)
    assert sum(arrival.arrival_s < 1000 for arrival in twice) == 2000, "the rate is doubled everywhere"
    assert len({arrival.session for arrival in twice}) == 2 * 20 + 1, "sessions of a copy are its own"
    assert len(replayed(file, rate_scale=2.5)) == pytest.approx(5000, abs=4 * np.sqrt(6000 * 5 / 36) + 4 * 60)


def test_lengths_drawn_from_a_trace_keep_prompt_and_output_together(tmp_path: Path) -> None:
    file = long_trace(tmp_path)
    length = {"kind": "from_trace", "file": file}
    it = scenario(
        workload__prompt_tokens=length, workload__output_tokens={**length, "max": 60}, workload__duration_s=500
    )
    pairs = {(n % 500 + 1, min(60, n % 70 + 1)) for n in range(2000)}
    found = [(arrival.prompt_tokens, arrival.output_tokens) for arrival in Demand(it, 1).openings()]
    assert len(found) > 800
    assert set(found) <= pairs
    assert len(set(found)) > 500


# -- in a scenario -------------------------------------------------------------------------------------------------


def scenario_file(tmp_path: Path, **arrivals: Any) -> Path:
    folder = tmp_path / "scenarios"
    folder.mkdir(exist_ok=True)
    path = folder / "small.yaml"
    path.write_text(
        yaml.safe_dump(
            document(
                workload__arrivals={"kind": "trace", **arrivals},
                workload__prompt_tokens={"kind": "from_trace"},
                workload__output_tokens={"kind": "from_trace"},
            )
        )
    )
    return path


def test_a_trace_is_looked_up_beside_the_scenario_and_from_where_one_is_in_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = scenario_file(tmp_path, file="trace.csv")
    (path.parent / "trace.csv").write_text(AZURE)
    (tmp_path / "other.csv").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    assert load(path).workload.arrivals.file == str(path.parent / "trace.csv")
    named = load(path, ["workload.arrivals.file=other.csv"])
    assert named.workload.arrivals.file == str(tmp_path / "other.csv")
    assert named.workload.arrivals.sha256 == digest(str(tmp_path / "other.csv"))
    assert changed(named, ["workload.arrivals.file=scenarios/trace.csv"]).workload.arrivals.sha256 == digest(
        str(path.parent / "trace.csv")
    )


def test_a_missing_trace_says_where_to_get_it(tmp_path: Path) -> None:
    path = scenario_file(tmp_path, file="trace.csv", source="https://example.org/traces")
    with pytest.raises(TraceMissing) as error:
        load(path)
    assert str(error.value) == (
        f"{path.parent}/trace.csv: no such trace; get it from https://example.org/traces, "
        "and say where it is: --set workload.arrivals.file=PATH"
    )
    assert load(path, files=False).name == "small"


def test_a_broken_trace_or_a_model_that_nobody_serves_is_found_when_the_scenario_is_loaded(tmp_path: Path) -> None:
    path = scenario_file(tmp_path, file="trace.csv")
    (path.parent / "trace.csv").write_text(AZURE.replace("396", "x"))
    with pytest.raises(OperatorError, match=r"trace.csv:3: broken line"):
        load(path)
    (path.parent / "trace.csv").write_text(OWN.replace("llama3.1:8b", "gpt-7"))
    with pytest.raises(OperatorError, match=r"trace.csv:2: model gpt-7, which the cluster does not serve; add it"):
        load(path)


def test_the_manifest_names_the_trace_by_its_digest_and_the_folder_does_not_matter(tmp_path: Path) -> None:
    path = scenario_file(tmp_path, file="trace.csv")
    (path.parent / "trace.csv").write_text(AZURE)
    here = load(path)
    record = TwinWorld().run(here, 1, None, lambda line: None)
    assert record.manifest["files"]["workload.arrivals"]["sha256"] == digest(str(path.parent / "trace.csv"))
    assert record.table("requests").num_rows == 2  # the third comes after the load's end
    (tmp_path / "trace.csv").write_text(AZURE)
    there = load(path, [f"workload.arrivals.file={tmp_path / 'trace.csv'}"])
    assert scenario_digest(here) == scenario_digest(there)
    (tmp_path / "trace.csv").write_text(AZURE.replace("374", "375"))
    other = load(path, [f"workload.arrivals.file={tmp_path / 'trace.csv'}"])
    assert scenario_digest(here) != scenario_digest(other)
    (path.parent / "trace.csv").write_text(AZURE.replace("374", "376"))
    with pytest.raises(TraceError, match="not the trace that the scenario was loaded with"):
        Demand(here, 1)


# -- the published traces ------------------------------------------------------------------------------------------

TRACES = os.environ.get("OLLAMAMAX_TRACES")
needs_traces = pytest.mark.skipif(
    TRACES is None, reason="set OLLAMAMAX_TRACES to a folder with the published Azure and Mooncake traces"
)


@needs_traces
@pytest.mark.parametrize(
    ("pattern", "requests", "length_s"),
    [("Azure*conv*", 19_366, 3501.7), ("Azure*code*", 8_819, 3435.9), ("Mooncake*conversation*", 12_031, 3537.0)],
)
def test_the_published_traces_are_read_whole(pattern: str, requests: int, length_s: float) -> None:
    (file,) = Path(str(TRACES)).glob(pattern)
    trace = read_trace(str(file))
    assert len(trace.arrival_s) == requests
    assert trace.arrival_s[-1] == pytest.approx(length_s, abs=0.1)
    assert trace.session.any() == ("Mooncake" in file.name)


@needs_traces
def test_the_azure_conversations_run_to_a_verdict() -> None:
    from twin.experiment.run import run_scenario

    (file,) = Path(str(TRACES)).glob("Azure*conv*")
    path = Path(__file__).parents[3] / "scenarios" / "azure-conversation.yaml"
    it = load(path, [f"workload.arrivals.file={file}", "replications=1"])
    summary = run_scenario(TwinWorld(), it, None, lambda line: None).summary
    assert summary["verdict"] == "pass", summary["expectations"]
    assert summary["figures"]["requests_offered"] > 18_000
