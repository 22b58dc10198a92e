"""Drills on an operator's own nodes: only what is allowed is done, it is said before, and everything is put back."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from live.gateway.config import ConfigError
from live.hands.config import HandsConfig
from live.rig.operator_cluster import OperatorNodes, of_scenario, plan
from live.rig.operator_options import operator_nodes
from live.rig.processes import free_port
from twin.scenario.loader import load

ROOT = Path(__file__).parents[3]
URLS = {f"node-{index}": f"http://10.0.0.{index}:11434" for index in range(3)}
SHORT = [
    "workload.warmup_s=1",
    "workload.duration_s=9",
    "faults.0.at_s=3",
    "faults.0.target=node-0",
    "steady_state.success_ratio.window_s=3",
    "steady_state.hold_s=1",
    "cluster.slots_per_model=1",
    "live.slots_per_model=1",
    "live.rate_rps=2",
]


def planned(name: str, nodes: OperatorNodes, *changes: str) -> tuple[list[str], list[str]]:
    scenario = load(ROOT / f"scenarios/{name}.yaml", [of_scenario(nodes), "faults.0.target=node-1", *changes])
    return plan(scenario, scenario.seed, nodes)


def test_a_network_fault_needs_nothing_and_names_its_node_and_its_end() -> None:
    doing, refused = planned("partition", OperatorNodes(URLS), "faults.0.duration_s=15")
    assert refused == []
    assert doing == [
        "60 s, faults[0]: partition at node-1 (http://10.0.0.1:11434): cut_network in our Toxiproxy; "
        "put back at 75 s: restore_network in our Toxiproxy"
    ]


def test_what_nobody_can_do_is_refused_in_one_line() -> None:
    doing, refused = planned("node-crash", OperatorNodes(URLS, allow_disruption=True))
    assert doing == []
    [line] = refused
    assert "nobody can kill_server on node-1: name a command under hands: drill:" in line


DRILL = HandsConfig.model_validate({"drill": {"kill_server": "stop-it {node}", "start_server": "start-it {node}"}})


def test_what_would_disturb_a_node_is_refused_until_it_is_allowed() -> None:
    _, refused = planned("node-crash", OperatorNodes(URLS, DRILL))
    assert "kill_server disturbs node-1 itself; say --allow-disruption" in refused[0]
    doing, refused = planned("node-crash", OperatorNodes(URLS, DRILL, allow_disruption=True))
    assert refused == []
    assert "kill_server by `stop-it {node}`; put back at 120 s: start_server by `start-it {node}`" in doing[0]


def test_a_fault_that_could_not_be_undone_is_refused() -> None:
    only = HandsConfig.model_validate({"drill": {"kill_server": "stop-it"}})
    _, refused = planned("node-crash", OperatorNodes(URLS, only, allow_disruption=True))
    assert "nobody can start_server" in refused[0]


def test_an_agent_can_kill_runners() -> None:
    nodes = OperatorNodes(URLS, agents={"node-1": "http://10.0.0.1:11480"}, allow_disruption=True)
    doing, _ = planned("runner-crash", nodes)
    assert "kill_runner by its agent http://10.0.0.1:11480" in doing[0]


def test_what_has_a_degree_or_no_way_at_all_is_refused_even_with_a_command() -> None:
    hands = HandsConfig.model_validate({"drill": {"slow_gpu": "slow", "stick_loader": "stick"}})
    for name in ("slow-decay", "scheduler-deadlock"):
        _, refused = planned(name, OperatorNodes(URLS, hands, allow_disruption=True))
        assert "cannot be done to a node of yours" in refused[0]


def hands_in_the_drill(nodes: OperatorNodes) -> list[set[str]]:
    """What the policy of a drill on these nodes knows to be possible at each."""
    scenario = load(ROOT / "scenarios/partition.yaml", ["cluster.hardware=h100", of_scenario(nodes)])
    assert [node.vram_gib for node in scenario.cluster.spec().nodes] == [80.0] * len(URLS), "machines stay as they were"
    return [set(node.hands) for node in scenario.cluster.spec().nodes]


def test_without_permission_the_policy_may_not_touch_the_nodes_either() -> None:
    agents = {"node-1": "http://10.0.0.1:11480"}
    hands = HandsConfig.model_validate({"restart": "x"})
    assert hands_in_the_drill(OperatorNodes(URLS, hands, {}, agents)) == [set(), set(), set()]


def test_with_permission_it_may_do_to_each_what_its_own_hands_can() -> None:
    api = {"load", "unload", "pull", "copy"}
    own = {"node-0": HandsConfig.model_validate({"restart": "x"})}
    agents = {"node-1": "http://10.0.0.1:11480"}
    nodes = OperatorNodes(URLS, HandsConfig(), own, agents, allow_disruption=True)
    assert hands_in_the_drill(nodes) == [api | {"restart"}, api | {"restart", "kill_runner"}, api]


def test_agents_and_hands_of_the_file_go_with_the_urls(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("nodes: {big: {url: http://gpu2, agent: gpu2, hands: {restart: fix-it}}, other: http://gpu3}\n")
    nodes = operator_nodes("http://gpu1:11434,gpu2:11434", file, True)
    assert nodes.urls == {"node-0": "http://gpu1:11434", "node-1": "http://gpu2:11434"}
    assert nodes.agents == {"node-1": "http://gpu2:11480"}
    assert set(nodes.own_hands) == {"node-1"}


@pytest.mark.parametrize(
    ("urls", "line"),
    [
        ("imaginary", "give real, emulated, or the URLs"),
        ("a:1,b:x", "is no address"),
        ("a:1,http://a:1", "there twice"),
    ],
)
def test_bad_urls_are_one_line(urls: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        operator_nodes(urls, None, False)


# -- on nodes that are somebody else's ----------------------------------------------------------------------------


@contextlib.contextmanager
def someones_nodes(count: int, tmp_path: Path) -> Iterator[list[str]]:
    """Emulated nodes that the drill has not started; each is restarted by a script, as an operator would have one."""
    urls, started = [], []
    for index in range(count):
        port = free_port()
        script = tmp_path / f"start-{index}"
        script.write_text(
            f"#!/bin/sh\ncd {ROOT}\n{sys.executable} -m ollamamax emulate --listen 127.0.0.1:{port} "
            f">/dev/null 2>&1 </dev/null &\necho $! > {tmp_path}/pid-{index}\n"
            f"for i in $(seq 200); do {sys.executable} -c "
            f"\"import socket; socket.create_connection(('127.0.0.1', {port}), 0.2)\" 2>/dev/null && exit 0; done; exit 1\n"
        )
        script.chmod(0o755)
        subprocess.run([str(script)], check=True, timeout=60)
        started.append(tmp_path / f"pid-{index}")
        urls.append(f"http://127.0.0.1:{port}")
    try:
        yield urls
    finally:
        for file in started:
            subprocess.run(["kill", "-9", file.read_text().strip()], check=False, capture_output=True)


def command(name: str, urls: list[str], out: Path, *flags: str) -> list[str]:
    words = [sys.executable, "-m", "ollamamax", "run", f"scenarios/{name}.yaml", "--world", "live", "--json"]
    words += ["--nodes", ",".join(urls), "--out", str(out), *flags]
    for change in SHORT:
        words += ["--set", change]
    return words


def drill(
    name: str, urls: list[str], out: Path, *flags: str, limit_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    words = command(name, urls, out, *flags)
    return subprocess.run(words, capture_output=True, text=True, timeout=limit_s, check=False, cwd=ROOT)


def loaded(url: str) -> list[str]:
    with urllib.request.urlopen(f"{url}/api/ps", timeout=5) as response:
        return [model["name"] for model in json.load(response)["models"]]


def load_model(url: str) -> None:
    body = json.dumps({"model": "llama3.1:8b", "stream": False}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/api/generate", body), timeout=30) as response:
        assert json.load(response)["done"]


@pytest.mark.real
def test_a_partition_of_someones_nodes_loses_nothing_and_leaves_them_as_they_were(
    toxiproxy_server: Path, tmp_path: Path
) -> None:
    with someones_nodes(3, tmp_path) as urls:
        for url in urls:
            load_model(url)
        before = [loaded(url) for url in urls]
        done = drill("partition", urls, tmp_path, "--set", "faults.0.duration_s=4")
        summary = json.loads(done.stdout)
        assert summary["figures"]["requests_lost"] == 0, done.stderr
        assert summary["figures"]["actions"] == {}, "nothing is done to the nodes themselves"
        assert not any(summary["invariants"].values()), summary["notes"]
        assert [loaded(url) for url in urls] == before
        manifest = json.loads(Path(summary["run_dirs"][0], "manifest.json").read_text())
        assert list(manifest["nodes"].values()) == urls


@pytest.mark.real
@pytest.mark.long
def test_a_crash_by_the_operators_own_commands_is_healed_by_the_operators_own_hand(
    toxiproxy_server: Path, tmp_path: Path
) -> None:
    with someones_nodes(3, tmp_path) as urls:
        config = tmp_path / "hands.yaml"
        index = "$(echo {node} | cut -d- -f2)"
        start = ["sh", "-c", f"{tmp_path}/start-{index}"]
        kill = ["sh", "-c", f"kill -9 $(cat {tmp_path}/pid-{index})"]
        config.write_text(
            json.dumps({"hands": {"restart": start, "drill": {"kill_server": kill, "start_server": start}}})
        )
        done = drill("node-crash", urls, tmp_path, "--config", str(config), "--allow-disruption")
        summary = json.loads(done.stdout)
        assert summary["figures"]["requests_lost"] == 0, done.stderr
        assert summary["figures"]["actions"]["restart"] == 1
        assert all(loaded(url) is not None for url in urls)


@pytest.mark.real
@pytest.mark.long
def test_a_restoration_that_fails_is_said_loudly(toxiproxy_server: Path, tmp_path: Path) -> None:
    with someones_nodes(2, tmp_path) as urls:
        config = tmp_path / "hands.yaml"
        kill = ["sh", "-c", f"kill -9 $(cat {tmp_path}/pid-$(echo {{node}} | cut -d- -f2))"]
        config.write_text(json.dumps({"hands": {"drill": {"kill_server": kill, "start_server": "false"}}}))
        done = drill(
            "node-crash", urls, tmp_path, "--config", str(config), "--allow-disruption", "--set",
            "cluster.models={llama3.1:8b: {replicas: 2}}",
        )  # fmt: skip
        assert done.returncode == 2
        [line] = [line for line in done.stderr.splitlines() if line.startswith("ollamamax: ")]
        assert "not everything could be put back" in line
        assert "start_server" in line
        assert re.search(r"node-0 is not well after the drill", line)


@pytest.mark.real
@pytest.mark.parametrize(("how", "starts_again"), [(signal.SIGINT, False), (signal.SIGHUP, True)])
def test_a_drill_that_is_broken_off_in_the_midst_of_a_fault_puts_back_or_says_what_it_could_not(
    toxiproxy_server: Path, tmp_path: Path, how: signal.Signals, starts_again: bool
) -> None:
    with someones_nodes(2, tmp_path) as urls:
        config, killed = tmp_path / "hands.yaml", tmp_path / "killed"
        index = "$(echo {node} | cut -d- -f2)"
        kill = ["sh", "-c", f"kill -9 $(cat {tmp_path}/pid-{index}); touch {killed}"]
        start = ["sh", "-c", f"{tmp_path}/start-{index}"] if starts_again else "false"
        config.write_text(json.dumps({"hands": {"drill": {"kill_server": kill, "start_server": start}}}))
        models = ["--set", "cluster.models={llama3.1:8b: {replicas: 2}}", "--set", "faults.0.duration_s=60"]
        words = command("node-crash", urls, tmp_path, "--config", str(config), "--allow-disruption", *models)
        running = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
        )
        try:
            until_s = time.monotonic() + 60.0
            while not killed.exists():
                assert time.monotonic() < until_s, "no fault was done"
                time.sleep(0.05)
            running.send_signal(how)
            _, said = running.communicate(timeout=60)
        finally:
            running.kill()
        if starts_again:
            assert running.returncode == 3, said
            assert "could be put back" not in said
            assert [loaded(url) for url in urls] == [[], loaded(urls[1])]
        else:
            assert running.returncode == 2, said
            [line] = [line for line in said.splitlines() if line.startswith("ollamamax: ")]
            assert line.startswith("ollamamax: interrupted; not everything could be put back: ")
            assert "node-0 is not well after the drill" in line


def test_a_fault_that_is_not_allowed_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    started_s = time.monotonic()
    done = drill("node-crash", ["http://127.0.0.1:9", "http://127.0.0.2:9", "http://127.0.0.3:9"], tmp_path)
    assert done.returncode == 2
    assert "ollamamax: refused: faults[0]: server_crash at node-0 (http://127.0.0.1:9)" in done.stderr
    assert time.monotonic() - started_s < 30
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_would_be_done_and_does_nothing(tmp_path: Path) -> None:
    done = drill("partition", ["http://127.0.0.1:9", "http://127.0.0.2:9", "http://127.0.0.3:9"], tmp_path, "--dry-run")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["load"].startswith("about 20 requests to llama3.1:8b over 10 s")
    assert said["faults"][0].startswith("3 s, faults[0]: partition at node-0 (http://127.0.0.1:9): cut_network")
    assert said["refused"] == []


def test_a_node_that_is_not_well_is_not_drilled(tmp_path: Path) -> None:
    done = drill("partition", ["http://127.0.0.1:9", "http://127.0.0.2:9", "http://127.0.0.3:9"], tmp_path)
    assert done.returncode == 2
    assert "node-0 (http://127.0.0.1:9) is not well before the drill" in done.stderr
