"""What an operator's words about a node stand for: `{node}`, `{model}`, `{address}` and `{host}`."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from twin.policy.vocabulary import Action

_PLACEHOLDER = re.compile(r"\{(node|model|address|host)\}")


def filled(text: str, action: Action, address: str) -> str:
    """The text with the values of an action in it; `address` is the node's URL, and `{host}` the host in it."""
    values = {
        "node": action.node,
        "model": action.model,
        "address": address,
        "host": urlsplit(address).hostname or "",
    }
    return _PLACEHOLDER.sub(lambda found: values[found[1]], text)
