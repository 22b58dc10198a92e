"""With which `num_ctx` the nodes say that they have each model loaded: what is asked for with that is not loaded anew.

What that means for a probe, a load and a route is the policy's (`twin.policy.contexts`). The gateway needs it for what it
sends for clients that ask for less: after a restart it does not remember what it has sent.
"""

from __future__ import annotations

from twin.policy.vocabulary import ProbeResult


class SeenContexts:
    """Takes it from the probes of `/api/ps`."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, int]] = {}  # node: of each model that it has loaded; 0: it cannot be told

    def saw(self, result: ProbeResult) -> None:
        """A probe came back."""
        if result.kind == "residency" and result.ok:
            self._seen[result.node] = dict(zip(result.models, result.contexts, strict=False))

    def everywhere(self, model: str) -> int:
        """The `num_ctx` for which all nodes have the model loaded that have it; 0: they differ, or it cannot be told."""
        said = {loaded[model] for loaded in self._seen.values() if model in loaded}
        return said.pop() if len(said) == 1 else 0
