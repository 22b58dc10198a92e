"""What a node counts itself: the generations in its access log."""

import re
from pathlib import Path

# A line of Ollama's access log for a finished generation, native or OpenAI-compatible or Anthropic.
_GENERATION = re.compile(
    rb"^\[GIN\].*\| 200 \|.*POST +"
    rb'"/(?:api/generate|api/chat|v1/chat/completions|v1/completions|v1/responses|v1/messages)"',
    re.MULTILINE,
)


class AccessLog:
    """Counts the generations with status 200 in a log that grows; it is read only from where it was read last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0
        self._generations = 0

    def generations(self) -> int:
        """How many there are by now, over all starts of the node."""
        if self._path.exists():
            with self._path.open("rb") as log:
                log.seek(self._read_bytes)
                whole_lines = log.read().rpartition(b"\n")
            text = whole_lines[0] + whole_lines[1]
            self._read_bytes += len(text)
            self._generations += len(_GENERATION.findall(text))
        return self._generations
