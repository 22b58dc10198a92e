"""What an experiment knows of a world."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from twin.record.reader import RunRecord
from twin.scenario.generators import drawn_faults, drawn_policy
from twin.scenario.inputs import files_of, without_places
from twin.scenario.schema import Scenario

WorldName: TypeAlias = Literal["twin", "live"]
Progress: TypeAlias = Callable[[str], None]
"""Takes one line that says how far a run is."""
MACHINE = ("processor", "cores")
"""Entries of a manifest's machine that tell it from others; its system and Python may be brought up to date."""


class World(Protocol):
    """Runs a scenario once and writes its record."""

    name: WorldName

    def run(self, scenario: Scenario, seed: int, folder: Path | None, progress: Progress) -> RunRecord:
        """Run it. The record goes into `folder`, or stays in memory. Whatever happens, everything is put back."""


def scenario_document(scenario: Scenario) -> dict[str, Any]:
    """The scenario as it goes into a manifest: keys as in its file, defaults filled in."""
    document: dict[str, Any] = scenario.model_dump(mode="json", by_alias=True)
    return document


def other_machine(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """What makes two machines, as manifests name them, no one machine: entry, there, here."""
    return [(key, there.get(key), here.get(key)) for key in MACHINE if there.get(key) != here.get(key)]


def given_twice(folders: Sequence[Path]) -> Path | None:
    """A folder of runs that stands there more than once, by whatever name."""
    places = [folder.resolve() for folder in folders]
    return next((folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1), None)


def scenario_digest(scenario: Scenario) -> str:
    """sha256 (hex, 16 digits) of the scenario's content; its seed and replications do not count."""
    document = scenario_document(scenario)
    del document["seed"], document["replications"]
    document = without_places(document)
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def manifest(scenario: Scenario, seed: int, world: WorldName) -> dict[str, Any]:
    """What every manifest says, in whichever world."""
    document = scenario_document(scenario)
    return {
        "scenario": document,
        "files": files_of(document),
        "faults_drawn": drawn_faults(scenario, seed),
        "policy_drawn": drawn_policy(scenario, seed),
        "digest": scenario_digest(scenario),
        "seed": seed,
        "world": world,
        "version": version("ollamamax"),
        "machine": {
            "system": f"{platform.system()} {platform.release()}",
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
