"""The folder of a soak: `results.jsonl` has a line for each finished seed, written as it finishes, so that whatever ends a
soak costs only the seeds under way; `soak.json` says what was asked and, once it is over, what came out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twin.errors import OperatorError
from twin.experiment.replication import this_version
from twin.experiment.study import RESULTS, write_whole
from twin.experiment.world import scenario_digest
from twin.scenario.schema import Scenario

SOAK = "soak.json"


class SoakFolder:
    """The lines of a soak, on disk as soon as they are there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []

    def begin(self, scenario: Scenario, mode: str) -> None:
        """Write down what is asked; or, in the folder of an earlier soak, take over what it has.

        Raises `OperatorError` where that was another soak, `OSError` where nothing can be written.
        """
        asked = {
            "scenario": scenario.name,
            "digest": scenario_digest(scenario),
            "mode": mode,
            "version": this_version(),
        }
        path = self.folder / SOAK
        if not path.exists():
            self.write({**asked, "stopped": "not finished"})
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            for what, now in asked.items():
                if before[what] != now:
                    raise OperatorError(
                        f"--resume {self.folder}: its {what} was {before[what]}, now it is {now}; start the soak anew"
                    )
        except (ValueError, KeyError, TypeError) as error:
            raise OperatorError(
                f"--resume {self.folder}: {SOAK} is damaged or of another version; start the soak anew"
            ) from error
        self._read()

    def _read(self) -> None:
        """The finished seeds. A last line that was cut off while it was written is dropped from the file."""
        path = self.folder / RESULTS
        if not path.exists():
            return
        whole = path.read_bytes()
        end = whole.rfind(b"\n") + 1
        for number, text in enumerate(whole[:end].splitlines(), start=1):
            try:
                row = json.loads(text)
                row["seed"], row["violations"], row["reached"]
            except (ValueError, KeyError, TypeError) as error:
                raise OperatorError(
                    f"{path}:{number}: not a result of this version; remove the line, and --resume again"
                ) from error
            self.rows.append(row)
        if end < len(whole):
            with path.open("r+b") as file:
                file.truncate(end)

    def add(self, row: dict[str, Any]) -> None:
        """Write a finished seed down. Raises `OSError`."""
        with (self.folder / RESULTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def write(self, summary: dict[str, Any]) -> None:
        """What the soak says of itself. Raises `OSError`."""
        write_whole(self.folder / SOAK, json.dumps(summary, indent=2) + "\n")


def resumed(folder: Path) -> SoakFolder:
    """The folder of an earlier soak. Raises `OperatorError`."""
    if not (folder / SOAK).is_file():
        raise OperatorError(f"--resume {folder}: there is no {SOAK}; give the folder of a soak")
    return SoakFolder(folder)
