"""The compiled modules give what the source gives, bit for bit, and are never stale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scenario.documents import scenario
from twin import compiled

ONE_RUN = """
import json, sys
from twin import compiled
from twin.experiment.twin_world import TwinWorld
from twin.policy import router
from twin.record.reader import record_digest
from twin.scenario.schema import Scenario
record = TwinWorld().run(Scenario.model_validate(json.loads(sys.argv[1])), 7, None, lambda line: None)
print(json.dumps([record_digest(record), router.__file__]))
"""
FAULTS = [
    {"kind": "server_crash", "at_s": 8, "target": "random", "duration_s": 15},
    {"kind": "runner_hang", "at_s": 25, "target": "random", "duration_s": 10},
    {"kind": "slow_decay", "at_s": 5, "target": "node-1", "ramp_s": 10},
    {"kind": "silent_end", "at_s": 12, "target": "node-2", "duration_s": 10},
    {"kind": "gpu_out_of_memory", "at_s": 20, "target": "node-3", "lead_s": 10, "duration_s": 10},
    {"kind": "reload_thrash", "at_s": 15, "target": "node-2", "duration_s": 20},
]


def run(switch: str) -> tuple[str, str]:
    """The digest of a run's record, and where its router's code is."""
    it = scenario(cluster__nodes=4, faults=FAULTS)
    document = json.dumps(it.model_dump(mode="json", by_alias=True, exclude_unset=True))
    done = subprocess.run(
        [sys.executable, "-c", ONE_RUN, document],
        env={**os.environ, "OLLAMAMAX_COMPILED": switch},
        check=True,
        capture_output=True,
        text=True,
    )
    digest, file = json.loads(done.stdout)
    return digest, file


def test_compiled_and_interpreted_runs_leave_the_same_record() -> None:
    if not compiled.SIMULATOR.folder().is_dir():
        pytest.skip("nothing is compiled for these sources: `make compiled` does it where there is a C compiler")
    interpreted, source = run("0")
    native, extension = run("1")
    assert source.endswith("router.py")
    assert extension.endswith(compiled.SUFFIX)
    assert native == interpreted


def test_a_changed_source_has_another_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "ROOT", tmp_path)
    hot, types = tmp_path / "it" / "hot" / "a.py", tmp_path / "it" / "words" / "b.py"
    for file in (hot, types):
        file.parent.mkdir(parents=True)
        file.write_text("A = 1\n")
    modules = compiled.HotModules("it", "it", ["hot"], against=["words"])
    before = modules.digest()
    assert modules.digest() == before
    hot.write_text("A = 2\n")
    changed = modules.digest()
    types.write_text("A = 2\n")
    assert len({before, changed, modules.digest()}) == 3


def test_without_a_compiler_it_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "runs interpreted" in compiled.SIMULATOR.build()


def test_modules_are_found_only_in_the_build_of_these_sources(tmp_path: Path) -> None:
    finder = compiled.CompiledFinder(tmp_path, "twin")
    assert finder.find_spec("twin.policy.router", None) is None
    file = tmp_path / "twin" / "policy" / f"router{compiled.SUFFIX}"
    file.parent.mkdir(parents=True)
    file.touch()
    spec = finder.find_spec("twin.policy.router", None)
    assert spec is not None
    assert spec.origin == str(file)
    assert finder.find_spec("numpy", None) is None
