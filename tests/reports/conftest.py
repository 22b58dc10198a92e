"""Real folders for the pages: runs and studies made once, and beside them folders that are damaged in every way."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from twin.experiment.conduct import Asked, conduct, plan_of
from twin.experiment.engines import LocalEngine
from twin.experiment.run import run_scenario
from twin.experiment.twin_world import TwinWorld
from twin.scenario.loader import load

SCENARIO = """
schema: 1
name: small-crash
claim: A crashed node costs no admitted request.
why: It is small.
cluster:
  nodes: 3
  hardware: rtx-4090
  models: {llama3.1:8b: {replicas: 3}}
  slots_per_model: 4
workload:
  arrivals: {kind: poisson, rate_rps: 3.0}
  prompt_tokens: {kind: lognormal, mean: 100, cv: 1.0}
  output_tokens: {kind: lognormal, mean: 100, cv: 0.8}
  deadline_s: 60
  warmup_s: 5
  duration_s: 60
policy: {preset: default}
faults:
  - {kind: server_crash, at_s: 20, target: node-1, duration_s: 20}
steady_state: {success_ratio: {min: 0.999, window_s: 10}, hold_s: 5}
expect: {requests_lost: {max: 0}, ttr_s: {max: 60}}
replications: 2
seed: 1
live: {rate_rps: 3.0, prompt_tokens: {kind: lognormal, mean: 50, cv: 1.0}}
record: {telemetry_period_s: 1}
"""


@dataclass(frozen=True)
class Made:
    """What was made: the folder that a dashboard would look at, and what lies in it."""

    root: Path
    scenario: Path
    twin: Path
    live: Path
    compare: Path
    calm: Path
    sweep: Path


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is computed from the tests' runs is not kept in the user's cache."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Runs in the twin, the same as if they had been live, a comparison with and without faults, and a sweep."""
    root = tmp_path_factory.mktemp("runs")
    scenario = root.parent / "small-crash.yaml"
    scenario.write_text(SCENARIO, encoding="utf-8")
    result = run_scenario(TwinWorld(), load(scenario), root, lambda line: None)
    assert result.folder is not None
    folders = {
        name: study(root, scenario, name, *asked)
        for name, asked in {
            "compare": ("policy.preset=none,default", []),
            "calm": ("policy.preset=none,default", ["faults=[]"]),
            "sweep": ("cluster.nodes=3,4", []),
        }.items()
    }
    return Made(root, scenario, result.folder, as_if_live(result.folder), **folders)


def study(root: Path, scenario: Path, name: str, vary: str, changes: list[str]) -> Path:
    varied = [vary] if name != "sweep" else [vary, "workload.arrivals.rate_rps=2,3"]
    plan = plan_of("sweep" if name == "sweep" else "compare", Asked(scenario, varied, changes, 2))
    return conduct(plan, LocalEngine(1), root, command=f"ollamamax {name}")[0]


def as_if_live(folder: Path) -> Path:
    """A copy whose manifests say that it ran live."""
    live = folder.with_name(folder.name.replace("twin", "live"))
    shutil.copytree(folder, live)
    for path in [*live.glob("seed-*/manifest.json"), live / "summary.json"]:
        said: dict[str, Any] = json.loads(path.read_text())
        said["world"] = "live"
        path.write_text(json.dumps(said))
    return live


@pytest.fixture
def damaged(made: Made, tmp_path: Path) -> dict[str, Path]:
    """Folders that are damaged in every way, each by what is wrong with it."""
    found = {}
    for name in (
        "old",
        "no-table",
        "cut-table",
        "cut-manifest",
        "half-written",
        "no-summary",
        "cut-study",
        "other-study",
    ):
        source = made.sweep if "study" in name else made.twin
        found[name] = tmp_path / name
        shutil.copytree(source, found[name])
    first = {name: folder / "seed-1" for name, folder in found.items()}
    manifest = json.loads((first["old"] / "manifest.json").read_text())
    (first["old"] / "manifest.json").write_text(json.dumps(manifest | {"record_version": 1}))
    (first["no-table"] / "actions.parquet").unlink()
    table = first["cut-table"] / "requests.parquet"
    table.write_bytes(table.read_bytes()[:200])
    (first["cut-manifest"] / "manifest.json").write_text('{"record_version": ')
    (first["half-written"] / "manifest.json").unlink()
    (found["no-summary"] / "summary.json").unlink()
    (found["cut-study"] / "study.json").write_text('{"kind": "sweep"')
    (found["other-study"] / "study.json").write_text('{"kind": "sweep"}')
    return found
