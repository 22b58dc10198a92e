"""The gateway runs its hot modules compiled where they have been compiled, and nothing else changes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from live.compiled import GATEWAY
from twin import compiled

WHERE = """
import importlib, sys
for name in sys.argv[1:]:
    print(importlib.import_module(name).__file__)
"""


def files(switch: str) -> list[str]:
    """Where the hot modules' code is."""
    names = [".".join(path.relative_to(compiled.ROOT).with_suffix("").parts) for path in GATEWAY.sources()]
    done = subprocess.run(
        [sys.executable, "-c", WHERE, *names],
        env={**os.environ, "OLLAMAMAX_COMPILED": switch},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.split()


def test_every_hot_module_is_there() -> None:
    assert GATEWAY.sources()
    assert all(path.is_file() for path in GATEWAY.sources())


def test_without_a_build_the_gateway_runs_its_source() -> None:
    assert [Path(file) for file in files("0")] == GATEWAY.sources()


def test_with_a_build_all_hot_modules_are_of_it() -> None:
    if not GATEWAY.folder().is_dir():
        pytest.skip("nothing is compiled for these sources: `make compiled` does it where there is a C compiler")
    assert all(file.startswith(str(GATEWAY.folder())) for file in files("1"))
