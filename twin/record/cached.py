"""What was computed from run folders is kept in the user's cache, by the digest of the folder and of this code.

The digest of a folder is that of its manifest and of the footers of its Parquet files (which know each column's place,
size and bounds), not of all rows: it is there in milliseconds however long the run was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

from twin.record.reader import MANIFEST, RunRecord, open_run
from twin.record.schema import TABLES
from twin.record.story import Story, tell

KEPT = 400
FOOTER_END_BYTES = 8  # length of the footer, and the magic number


def story_of(folder: Path) -> Story:
    """The story of the run in that folder. Raises `RunUnreadable`, whose one line says what is wrong."""
    return told(open_run(folder))


def told(record: RunRecord) -> Story:
    """The story of a run: from the cache, where it is known and lies in a folder; else computed, and kept."""
    if record.folder is None:
        return tell(record)
    path = _path_of(record.folder)
    known = _read(path)
    if known is not None:
        return known
    story = tell(record)
    _keep(path, story)
    return story


def is_known(record: RunRecord) -> bool:
    """Whether the cache has the story of a run that lies in a folder."""
    return record.folder is not None and _read(_path_of(record.folder)) is not None


def cache_folder() -> Path:
    """Where it is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ollamamax" / "stories"


def folder_digest(folder: Path) -> str:
    """sha256 (hex) over what identifies the content of a whole run folder, and the code that computes from it."""
    whole = hashlib.sha256(_code())
    whole.update((folder / MANIFEST).read_bytes())
    for name in TABLES:
        with (folder / f"{name}.parquet").open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - FOOTER_END_BYTES))
            length = int.from_bytes(file.read(4), "little")
            file.seek(max(0, size - FOOTER_END_BYTES - length))
            whole.update(f"{name}:{size}\n".encode())
            whole.update(file.read())
    return whole.hexdigest()


@cache
def _code() -> bytes:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.digest()


def _path_of(folder: Path) -> Path:
    return cache_folder() / f"{folder_digest(folder)}.json"


def _read(path: Path) -> Story | None:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or damaged: it is computed again
        return None
    if not isinstance(known, dict) or set(known) != {field.name for field in fields(Story)}:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # what was read lately is kept longest
    return Story(**known)


def _keep(path: Path, story: Story) -> None:
    """Write it down; a cache that cannot be written (a full disk, a foreign folder) only costs time."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}.partial")
        beside.write_text(json.dumps(asdict(story), default=_plain), encoding="utf-8")
        os.replace(beside, path)
        files = sorted(path.parent.glob("*.json"), key=lambda it: it.stat().st_mtime)
        for old in files[:-KEPT]:
            old.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """numpy's numbers as Python's."""
    return value.item()
