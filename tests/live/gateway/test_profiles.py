"""The shipped profiles: each is a configuration that validates, and says how it differs from the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from live.gateway.config import load_config
from twin.policy.parameters import Parameters

PROFILES = sorted((Path(__file__).parents[3] / "live" / "profiles").glob("*.yaml"))


def parameters(name: str) -> Parameters:
    file = next(path for path in PROFILES if path.stem == name)
    return load_config(file, ["http://127.0.0.1:11434"]).parameters()


@pytest.mark.parametrize("file", PROFILES, ids=lambda path: path.stem)
def test_a_profile_is_a_configuration_that_serve_takes(file: Path) -> None:
    config = load_config(file, ["http://127.0.0.1:11434"])
    assert config.parameters() != Parameters()
    assert file.read_text(encoding="utf-8").splitlines()[1].startswith(f"# ollamamax serve live/profiles/{file.name} ")


def test_there_are_those_that_were_documented() -> None:
    names = {"development", "staging", "production", "high-availability", "small", "medium", "large"}
    assert {path.stem for path in PROFILES} == names


@pytest.mark.parametrize(
    ("name", "factor", "most"),
    [
        ("staging", 2, 3),
        ("production", 3, 5),
        ("high-availability", 5, 10),
        ("small", 2, 3),
        ("medium", 3, 5),
        ("large", 5, 10),
    ],
)
def test_the_factors_are_those_that_were_documented(name: str, factor: int, most: int) -> None:
    redundancy = parameters(name).redundancy
    assert (redundancy.enabled, redundancy.default_factor, redundancy.max_factor) == (True, factor, most)


def test_the_surer_a_profile_must_be_the_higher_its_threshold() -> None:
    names = ["development", "staging", "production", "high-availability"]
    thresholds = [parameters(name).healer.probability_min for name in names]
    assert thresholds == sorted(thresholds)
    assert not parameters("development").redundancy.enabled
