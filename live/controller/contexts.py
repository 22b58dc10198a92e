"""With which `num_ctx` each node has its models loaded, as far as it went through here.

For Ollama another `num_ctx` than the loaded one is an order to load the model anew, and so is none where one was said. So
a probe asks with what the node's last request had, a load is one for the requests that come, and a request that says
something else than the one before it is given the time of a load.
"""

from __future__ import annotations


class LoadedContexts:
    """What is known of it. 0 stands for none: the model's own length, or nobody knows."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[str, str], int] = {}  # node and model
        self._wanted: dict[str, int] = {}

    def of(self, node: str, model: str) -> int:
        """What to ask a node with so that it loads nothing anew."""
        return self._loaded.get((node, model), 0)

    def wanted(self, model: str) -> int:
        """What the last request for a model had."""
        return self._wanted.get(model, 0)

    def asked(self, model: str, tokens: int) -> None:
        """A request for the model goes out with that."""
        self._wanted[model] = tokens

    def loaded(self, node: str, model: str, tokens: int) -> None:
        """The node has it loaded with that."""
        self._loaded[node, model] = tokens
