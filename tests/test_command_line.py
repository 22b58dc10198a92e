"""The command line as its users type it: what it prints, and its exit status."""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from twin.scenario.catalogue import rows

ROOT = Path(__file__).parents[1]


def ollamamax(*arguments: str, limit_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ollamamax", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False, cwd=ROOT)


def run_json(*arguments: str, status: int) -> dict[str, Any]:
    done = ollamamax("run", *arguments, "--json")
    assert done.returncode == status, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def test_the_flagship_passes_in_twenty_replications_with_nothing_lost_and_every_invariant_kept(tmp_path: Path) -> None:
    summary = run_json("scenarios/node-crash.yaml", "--out", str(tmp_path), status=0)
    assert (summary["verdict"], summary["replications"], summary["world"]) == ("pass", 20, "twin")
    assert summary["figures"]["requests_lost"] == {"mean": 0.0, "ci95": [0.0, 0.0], "n": 20}
    assert len(summary["invariants"]) == 12
    assert set(summary["invariants"].values()) == {0}
    assert [expected["name"] for expected in summary["expectations"]] == ["requests_lost", "ttr_s"]
    assert all(Path(folder, "manifest.json").is_file() for folder in summary["run_dirs"])
    assert Path(summary["page"]).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_without_fault_tolerance_the_same_scenario_fails_and_says_how_many_were_lost(tmp_path: Path) -> None:
    changes = ("--set", "policy.preset=none", "--replications", "3", "--out", str(tmp_path))
    summary = run_json("scenarios/node-crash.yaml", *changes, status=1)
    assert summary["verdict"] == "fail"
    assert summary["figures"]["requests_lost"]["mean"] > 10
    done = ollamamax("run", "scenarios/node-crash.yaml", *changes)
    assert done.returncode == 1
    assert re.search(r"requests_lost\s+at most 0\s+\d+", done.stdout)


def test_a_run_prints_its_claim_verdict_and_where_to_look(tmp_path: Path) -> None:
    done = ollamamax("run", "scenarios/node-crash.yaml", "--replications", "2", "--out", str(tmp_path))
    assert done.returncode == 0
    assert "A crashed node costs no admitted request" in done.stdout
    assert "Pass" in done.stdout
    assert "page.html" in done.stdout.replace("\n", "")
    assert done.stderr.count("Traceback") == 0


def test_the_same_seed_gives_the_same_record_in_another_process_with_another_hash_seed(tmp_path: Path) -> None:
    digests = []
    for hash_seed in ("1", "2"):
        command = [
            sys.executable,
            "-m",
            "ollamamax",
            "run",
            "scenarios/node-crash.yaml",
            "--replications",
            "2",
            "--json",
        ]
        done = subprocess.run(
            [*command, "--out", str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={"PYTHONHASHSEED": hash_seed, "PATH": "/usr/bin:/bin"},
        )
        digests.append(json.loads(done.stdout)["figures"]["record_digest"])
    assert digests[0] == digests[1]
    other = run_json(
        "scenarios/node-crash.yaml", "--seed", "7", "--replications", "2", "--out", str(tmp_path), status=0
    )
    assert other["figures"]["record_digest"] != digests[0]


def test_a_recorded_run_replays_to_the_same_decisions_and_another_policy_to_others(tmp_path: Path) -> None:
    summary = run_json("scenarios/node-crash.yaml", "--replications", "1", "--out", str(tmp_path), status=0)
    folder = Path(summary["run_dirs"][0])
    done = ollamamax("replay", str(folder), "--json")
    assert done.returncode == 0
    outcome = json.loads(done.stdout)
    assert outcome["differing"] == 0
    assert outcome["compared"] > 500
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["scenario"]["policy"]["preset"] = "none"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    done = ollamamax("replay", str(folder))
    assert done.returncode == 1
    assert "was" in done.stdout
    assert "is now" in done.stdout


def test_a_report_of_finished_runs_is_one_page(tmp_path: Path) -> None:
    summary = run_json("scenarios/node-crash.yaml", "--replications", "2", "--out", str(tmp_path / "runs"), status=0)
    done = ollamamax("report", *summary["run_dirs"], "--html", str(tmp_path / "page.html"))
    assert done.returncode == 0, done.stderr
    assert "A crashed node costs no admitted request" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_comparison_says_what_is_better_on_the_same_seeds(tmp_path: Path) -> None:
    asked = ("compare", "scenarios/node-crash.yaml", "--vary", "policy.preset=none,default", "--replications", "3")
    done = ollamamax(*asked, "--out", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    study = json.loads(done.stdout)
    lost = next(pair for pair in study["pairs"] if pair["figure"] == "requests_lost")
    assert (lost["verdict"], lost["difference"]["n"]) == ("better", 3)
    assert [point["verdict"] for point in study["points"]] == ["fail", "pass"]
    again = ollamamax(*asked, "--resume", study["folder"])
    assert again.returncode == 0, again.stderr
    assert re.search(r"policy\.preset\s+n\s+verdict", again.stdout)
    assert "corrected for all of them (Holm)" in " ".join(again.stdout.split())


def test_a_soak_says_what_held_what_was_reached_and_how_long_many_seeds_take(tmp_path: Path) -> None:
    done = ollamamax("soak", "scenarios/soak.yaml", "--seeds", "2", "--jobs", "1", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "invariants held" in done.stdout
    assert "10,000 seeds would take" in " ".join(done.stdout.split())
    assert re.search(r"restarted\s+the policy restarted a node\s+2", done.stdout)


@pytest.mark.parametrize("what", ["faults", "workloads", "policies", "parameters", "metrics"])
def test_every_catalogue_is_listed_for_people_and_for_scripts(what: str) -> None:
    assert json.loads(ollamamax("catalogue", what, "--json").stdout) == json.loads(json.dumps(rows(what)))
    done = ollamamax("catalogue", what)
    assert done.returncode == 0
    assert str(next(iter(rows(what)[0].values())))[:8] in done.stdout


def test_the_reference_page_is_what_the_tables_say() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "twin.scenario.reference"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert (ROOT / "docs/reference.md").read_text(encoding="utf-8") == made, "run `make docs`"


def test_the_schema_is_printed_for_editors() -> None:
    schema = json.loads(ollamamax("schema").stdout)
    assert {"schema", "name", "claim", "cluster", "workload", "faults", "expect"} <= set(schema["properties"])


def test_the_benchmark_prints_the_simulator_beside_a_plain_loop() -> None:
    done = ollamamax("bench", "--requests", "1000", "--repeats", "1", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert 2.0 < figures["events_per_request"] < 3.5
    assert {row["run"] for row in figures["rows"]} >= {"plain loop", "15 nodes", "1,000 nodes"}
    assert figures["times_plain_loop"] > 1.0


# -- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("run", "scenarios/none.yaml"), r"scenarios/none\.yaml: No such file"),
        (
            ("run", "scenarios/node-crash.yaml", "--set", "clustr.nodes=3"),
            r"unknown key clustr; did you mean cluster\?",
        ),
        (("run", "scenarios/node-crash.yaml", "--set", "cluster.nodes"), r"write KEY=VALUE"),
        (("run", "scenarios/node-crash.yaml", "--set", "workload.arrivals.rate_rps=-1"), r"greater than 0, not -1"),
        (
            ("run", "scenarios/node-crash.yaml", "--set", "cluster.models.llama3.1:8b.size_gib=500"),
            r"fits no node",
        ),
        (("run", "scenarios/node-crash.yaml", "--set", "policy.healer.enabld=1"), r"did you mean healer\.enabled\?"),
        (("run", "scenarios/node-crash.yaml", "--world", "live", "--nodes", "imaginary"), r"--nodes imaginary"),
        (("run", "scenarios/scheduler-deadlock.yaml", "--world", "live"), r"cannot be done to real nodes"),
        (("run", "scenarios/node-crash.yaml", "--out", "/proc/runs"), r"--out /proc/runs"),
        (("sweep", "scenarios/node-crash.yaml"), r"nothing to vary; give --vary"),
        (("sweep", "scenarios/node-crash.yaml", "--vary", "clustr.nodes=1,2"), r"did you mean cluster\?"),
        (("sweep", "scenarios/node-crash.yaml", "--vary", "cluster.nodes=1,2", "--scheduler", "x"), r"--engine dask"),
        (("sweep", "scenarios/node-crash.yaml", "--vary", "cluster.nodes=5", "--resume", "nowhere"), r"nowhere"),
        (("compare", "scenarios/node-crash.yaml", "--vary", "policy.preset=none,nonne"), r"unknown preset 'nonne'"),
        (
            ("compare", "scenarios/node-crash.yaml", "--vary", "policy.preset=none,default", "--figure", "incidents"),
            r"--figure incidents: can be compared by",
        ),
        (("soak", "scenarios/soak.yaml", "--seeds", "1", "--out", "/proc/runs"), r"--out /proc/runs"),
        (("replay", "nowhere"), r"nowhere"),
        (("report", "nowhere", "--html", "x.html"), r"nowhere is no folder"),
        (("report", "docs", "--html", "x.html"), r"neither a run nor a study"),
        (("report", "--time", "docs"), r"docs is no run"),
        (("dashboard", "--runs", "README.md"), r"it is no folder"),
        (("serve",), r"node"),
        (("serve", "--node", "gpu1", "--node", "http://gpu1:11434"), r"node-1: .* is node-0 already"),
        (("agent", "--listen", "0.0.0.0:0"), r"give token_file, or listen on 127\.0\.0\.1"),
        (("agent", "nowhere.yaml"), r"nowhere\.yaml: cannot be read"),
        (("nodes", "list", "--admin", "127.0.0.1:9"), r"no admin API answers there"),
        (("run", "scenarios/partition.yaml", "--dry-run"), r"--dry-run is for drills on your own nodes"),
        (
            ("run", "scenarios/partition.yaml", "--world", "live", "--nodes", "real", "--allow-disruption"),
            r"are for drills on your own nodes",
        ),
        (("emulate", "--hardware", "abacus"), r"abacus"),
    ],
)
def test_bad_input_gets_one_clear_line_and_exit_status_2(arguments: tuple[str, ...], line: str) -> None:
    done = ollamamax(*arguments)
    assert done.returncode == 2, (done.stdout, done.stderr)
    said = [each for each in done.stderr.splitlines() if each.startswith("ollamamax: ")]
    assert len(said) == 1, done.stderr
    assert re.search(line, said[0]), said
    assert "Traceback" not in done.stderr


def test_validate_names_every_bad_file_and_fails() -> None:
    done = ollamamax("validate", "scenarios/node-crash.yaml", "scenarios/none.yaml")
    assert done.returncode == 2
    assert "scenarios/node-crash.yaml: valid" in done.stdout
    assert "none.yaml" in done.stderr


@pytest.mark.parametrize("command", ["serve", "emulate"])
def test_a_port_in_use_is_said_in_one_line(command: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        if command == "emulate":
            done = ollamamax("emulate", "--listen", address)
        else:
            with emulator() as (node, _):
                done = ollamamax("serve", "--node", node, "--listen", address)
    assert done.returncode == 2, done.stderr
    said = [each for each in done.stderr.splitlines() if each.startswith("ollamamax: ")]
    assert len(said) == 1
    assert "in use" in said[0]


# -- what stays up ------------------------------------------------------------------------------------------------


class emulator:  # reads as a function
    """An emulated node in a process of its own: its URL, and the process."""

    def __enter__(self) -> tuple[str, subprocess.Popen[bytes]]:
        port = free_port()
        self.process = start("emulate", "--listen", f"127.0.0.1:{port}")
        wait_for(f"http://127.0.0.1:{port}/api/version", self.process)
        return f"http://127.0.0.1:{port}", self.process

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(timeout=15) == 0, "Ctrl-C ends an emulated node cleanly"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "ollamamax", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def wait_for(url: str, process: subprocess.Popen[bytes], limit_s: float = 20.0) -> None:
    until_s = time.monotonic() + limit_s
    while time.monotonic() < until_s:
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
        try:
            with urllib.request.urlopen(url, timeout=1.0):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise AssertionError(f"{url} does not answer")


def test_serve_answers_as_one_ollama_would_and_ends_cleanly() -> None:
    with emulator() as (node, _):
        port = free_port()
        gateway = start("serve", "--node", node, "--listen", f"127.0.0.1:{port}")
        try:
            wait_for(f"http://127.0.0.1:{port}/api/version", gateway)
            body = {"model": "llama3.1:8b", "prompt": "why is the sky blue?", "stream": False}
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/api/generate",
                json.dumps(body | {"options": {"num_predict": 5}}).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=30) as response:
                answer = json.load(response)
            assert answer["done"] is True
            assert answer["eval_count"] == 5
            assert answer["response"]
        finally:
            gateway.send_signal(signal.SIGINT)
            assert gateway.wait(timeout=15) == 0


def test_the_dashboard_is_served_on_loopback_alone_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    port = free_port()
    dashboard = start("dashboard", "--runs", str(tmp_path), "--port", str(port), "--no-browser")
    try:
        wait_for(f"http://127.0.0.1:{port}/_stcore/health", dashboard, limit_s=60.0)
        listeners = {it.laddr.ip for it in psutil.net_connections("tcp") if it.laddr and it.laddr.port == port}
        assert listeners == {"127.0.0.1"}
    finally:
        dashboard.send_signal(signal.SIGINT)
        assert dashboard.wait(timeout=20) == 0
    with pytest.raises(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1.0):
        pass


def test_the_opening_time_of_a_run_is_printed_with_the_aim(tmp_path: Path) -> None:
    summary = run_json("scenarios/node-crash.yaml", "--replications", "1", "--out", str(tmp_path), status=0)
    done = ollamamax("report", "--time", summary["run_dirs"][0], "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert found["requests"] > 500 and found["aim_s"] == 2.0
    assert found["again_s"] > 0.0 and found["charts_s"] > 0.0 and isinstance(found["reached"], bool)


# -- the README ---------------------------------------------------------------------------------------------------


def readme_commands() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


# The first is a run of the flagship, the second runs this test, the third is among the long tests of the gate.
IN_TESTS_OF_THEIR_OWN = ("make run", "make test", "make gate")


def _readme_cases() -> list[Any]:
    """Two drills are enough for every day; the third is among the long tests."""
    cases = [line for line in readme_commands() if line not in IN_TESTS_OF_THEIR_OWN]
    third = [line for line in cases if "runner-hang" in line and "--world live" in line]
    return [pytest.param(line, marks=pytest.mark.long) if line in third else line for line in cases]


def test_make_run_is_the_flagship_and_make_gate_the_gate() -> None:
    shown = subprocess.run(["make", "-n", "run", "gate"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert "ollamamax run scenarios/node-crash.yaml --out runs" in shown
    assert "ollamamax gate" in shown


@pytest.mark.real
@pytest.mark.parametrize("command", _readme_cases())
def test_every_command_of_the_readme_works(command: str, tmp_path: Path) -> None:
    words = shlex.split(command)
    assert words[0] == ".venv/bin/ollamamax"
    arguments = words[1:]
    if arguments[0] == "dashboard":
        assert "--runs" in ollamamax("dashboard", "--help").stdout
        return  # it stays up: a test above opens and ends it
    if arguments[0] == "report":
        made = run_json("scenarios/node-crash.yaml", "--replications", "2", "--out", str(tmp_path / "runs"), status=0)
        arguments = ["report", str(Path(made["run_dirs"][0]).parent), "--html", str(tmp_path / "page.html")]
    if arguments[0] in ("serve", "nodes"):
        command_words = arguments[:1] if arguments[0] == "serve" else arguments[:2]
        help_text = ollamamax(*command_words, "--help").stdout
        assert all(word in help_text for word in arguments if word.startswith("--"))
        return  # what it does is a test above; the nodes that it names are the reader's
    expected = 0
    if arguments[0] in ("sweep", "compare"):
        arguments += ["--out", str(tmp_path), "--replications", "2"]
    elif arguments[0] == "claims":
        arguments += ["--out", str(tmp_path), "--replications", "2"]
        expected = 3  # two runs tell too little
    elif arguments[0] == "soak":
        arguments += ["--out", str(tmp_path), "--seeds", "4"]
    elif arguments[0] == "run":
        arguments += ["--out", str(tmp_path)]
        if "live" in arguments:
            duration_s = 16 if "scenarios/runner-hang.yaml" in arguments else 11
            short = {"workload.warmup_s": 1, "workload.duration_s": duration_s, "faults.0.at_s": 2}
            short["steady_state.hold_s"] = 2
            short["steady_state.success_ratio.window_s"] = 3
            for key, value in short.items():
                arguments += ["--set", f"{key}={value}"]
        else:
            arguments += ["--replications", "2"]
        expected = 1 if "policy.preset=none" in arguments else 0
    done = ollamamax(*arguments)
    assert done.returncode == expected, (done.stdout, done.stderr)
