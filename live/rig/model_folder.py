"""A node's own folder of models, which a drill may damage: links to the files of the shared one, so it costs no space."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

CONDITIONS: frozenset[str] = frozenset({"model_files_truncated", "model_files_missing"})
"""What can be done to the files."""
LAYER_MIN_BYTES = 100_000
"""A blob larger than this is weights; the others are templates and parameters."""
KEPT_SHARE = 0.5
"""Of a file that is cut short."""


class ModelFolder:
    """An OLLAMA_MODELS folder. Nothing is written into the shared files: what is damaged is another file."""

    def __init__(self, shared: Path, own: Path) -> None:
        self.path = own
        self._shared = shared

    def make(self) -> None:
        """Have it, whole."""
        if not self.path.is_dir():
            shutil.copytree(self._shared, self.path, copy_function=_link)

    def set(self, condition: str, value: float) -> None:
        """Damage the weights, or put them back."""
        for blob in (self._shared / "blobs").iterdir():
            if blob.stat().st_size < LAYER_MIN_BYTES:
                continue
            own = self.path / "blobs" / blob.name
            own.unlink(missing_ok=True)
            if not value:
                _link(str(blob), str(own))
            elif condition == "model_files_truncated":
                own.write_bytes(blob.read_bytes()[: int(blob.stat().st_size * KEPT_SHARE)])


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
