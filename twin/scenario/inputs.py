"""The files that a scenario names: where they are, what is in them, and by which digest a replay can tell them.

In a scenario's file a path counts from that file's folder; in `--set` from where one is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twin.scenario.schema import Scenario

KEYS = (
    ("workload", "arrivals"),
    ("workload", "prompt_tokens"),
    ("workload", "output_tokens"),
    ("live", "arrivals"),
    ("live", "prompt_tokens"),
    ("live", "output_tokens"),
)
"""The keys of a document that may have a `file`, and then a `sha256`."""


def _naming_files(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Dotted key and mapping of each part that names a file."""
    for part, key in KEYS:
        outer = document.get(part)
        entry = outer.get(key) if isinstance(outer, dict) else None
        if isinstance(entry, dict) and isinstance(entry.get("file"), str) and entry["file"]:
            yield f"{part}.{key}", entry


def relative_to(document: dict[str, Any], folder: Path) -> None:
    """Make the paths absolute that are not: they count from `folder`."""
    for _, entry in _naming_files(document):
        entry["file"] = str(folder.absolute() / entry["file"])


def forget_digests(document: dict[str, Any]) -> None:
    """The files may have been changed, or others named."""
    for _, entry in _naming_files(document):
        entry.pop("sha256", None)


def note_digests(document: dict[str, Any]) -> bool:
    """Read the files and write their sha256 beside them. Whether there are any. Raises `TraceError`."""
    some = False
    for key, entry in _naming_files(document):
        from twin.scenario.workload.trace_files import digest  # noqa: PLC0415  # only where there is a file

        some = True
        found = digest(entry["file"], entry.get("source", ""), key)
        if entry.setdefault("sha256", found) != found:
            from twin.errors import OperatorError  # noqa: PLC0415

            raise OperatorError(
                f"{entry['file']}: its sha256 is {found}, and {key}.sha256 says another; "
                "give that very file, or leave the key out"
            )
    return some


def files_of(document: dict[str, Any]) -> dict[str, dict[str, str | None]]:
    """Dotted key to file and digest, for the manifest."""
    return {key: {"file": entry["file"], "sha256": entry.get("sha256")} for key, entry in _naming_files(document)}


def without_places(document: dict[str, Any]) -> dict[str, Any]:
    """The document with each file under its name alone: where it lies does not matter to a scenario's digest."""
    for _, entry in _naming_files(document):
        entry["file"] = Path(entry["file"]).name
    return document


def check(scenario: Scenario) -> None:
    """Read the files through. Raises `TraceError` where a line is broken, or asks for what the cluster does not serve."""
    from twin.scenario.workload.trace_files import TraceError, read_trace  # noqa: PLC0415

    for part in (scenario.workload, scenario.live):
        for name in ("arrivals", "prompt_tokens", "output_tokens"):
            entry = getattr(part, name)
            file = getattr(entry, "file", None)
            if file is None:
                continue
            trace = read_trace(file, entry.sha256)
            if name == "arrivals" and trace.model is not None:
                for model in sorted(set(trace.model) - {""} - set(scenario.cluster.models)):
                    line = trace.model.index(model) + 2
                    raise TraceError(
                        f"{file}:{line}: model {model}, which the cluster does not serve; "
                        "add it to cluster.models, or leave the field empty to draw one"
                    )
