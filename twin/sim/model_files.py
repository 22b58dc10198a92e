"""The model files on a simulated node's disk: damaged, of another version, or pulled anew from the registry."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from twin.sim.answers import Share

if TYPE_CHECKING:
    from twin.policy.vocabulary import AttemptError
    from twin.sim.node import OllamaNode

REFUSED_S: Final = 0.002
"""Time in which Ollama refuses a model whose file is short or missing (measured on real nodes: 1 to 2 ms)."""

SYSTEM_DISK_GIB: Final = 60.0
"""What everything but the models takes of the disk. An assumption."""

PULL_GIB_PER_S: Final = 0.1
"""Speed of a download from the registry: a line of 1 Gbit/s, nearly. An assumption."""

PULL_ANSWER_S: Final = 0.2
NO_HOST_S: Final = 5.0
"""Until the registry answers, and until the resolver gives up. Assumptions."""

CERTIFICATE_S: Final = 86_400.0
"""A clock that is further off than this finds the registry's certificate expired, or not valid yet. An assumption: most
certificates are renewed weeks before their end, and some are only hours old."""

NO_HOST: Final = "dial tcp: lookup registry.ollama.ai: no such host"
BAD_CERTIFICATE: Final = "tls: failed to verify certificate: x509: certificate has expired or is not yet valid"
NO_SPACE: Final = "no space left on device"
DIGEST_MISMATCH: Final = "digest mismatch, file must be downloaded again"
"""What Ollama says of pulls that fail (issues 3336, 3334, 941)."""


class ModelFiles:
    """The files of one node."""

    def __init__(self, node: OllamaNode) -> None:
        self.node = node
        self.pulls_failed = 0
        self._models_gib = math.fsum(model.size_gib for model in node.models.values())
        self._damaged = Share()

    # -- the files that are there ---------------------------------------------------------------------------------

    def refusal(self) -> AttemptError:
        """With what a request for a model that is not loaded is refused at once; empty: it is not. The list of models is
        green all the same, for it does not look into the files."""
        values = self.node.conditions.values
        if values["model_files_missing"]:
            return "client_error"  # 400 "m" does not support generate
        return "server_error" if values["model_files_truncated"] else ""

    def incompatible(self) -> bool:
        """Whether this version of Ollama cannot read the files: the runner starts, and refuses them."""
        return bool(self.node.conditions.values["models_incompatible"])

    def disk_free_gib(self) -> float:
        """Free space of the disk with the models."""
        node = self.node
        free_gib = node.hardware.disk_gib - SYSTEM_DISK_GIB - self._models_gib
        if node.conditions.disturbed:
            values = node.conditions.values
            free_gib = (free_gib - values["disk_filled_gib"]) * (1.0 - values["disk_filled_share"])
        return max(0.0, free_gib)

    # -- pulls ----------------------------------------------------------------------------------------------------

    def pull(self, model: str, on_end: Callable[[str], None]) -> None:
        """Download a model anew. `on_end` is called once, with Ollama's message, or empty where it succeeded. What is
        there already stays as it is until a pull has succeeded, and is loaded and served meanwhile."""
        node = self.node
        values = node.conditions.values
        if values["registry_unresolvable"]:
            self._end(NO_HOST_S, NO_HOST, on_end)
        elif values["registry_untrusted"] or abs(values["clock_offset_s"]) > CERTIFICATE_S:
            self._end(PULL_ANSWER_S, BAD_CERTIFICATE, on_end)
        else:
            size_gib = node.models[model].size_gib
            free_gib = self.disk_free_gib()
            if free_gib < size_gib:
                self._end(PULL_ANSWER_S + free_gib / PULL_GIB_PER_S, NO_SPACE, on_end)
                return
            error = DIGEST_MISMATCH if self._damaged.takes(values["pull_damaged_share"]) else ""
            self._end(PULL_ANSWER_S + size_gib / PULL_GIB_PER_S, error, on_end)

    def _end(self, after_s: float, error: str, on_end: Callable[[str], None]) -> None:
        if error:
            self.pulls_failed += 1
        self.node.clock.call_at(self.node.clock.time() + after_s, partial(on_end, error))
