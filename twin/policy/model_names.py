"""One name for each model: Ollama knows `m`, `m:latest` and `library/m` as the same, and so must whoever counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_DEFAULT_PREFIXES = ("registry.ollama.ai/", "library/")
_DEFAULT_TAG = ":latest"


def canonical(name: str) -> str:
    """The shortest of the names that Ollama takes for the same model."""
    for prefix in _DEFAULT_PREFIXES:
        name = name.removeprefix(prefix)
    return name.removesuffix(_DEFAULT_TAG)


def other_name(name: str) -> str:
    """A name that Ollama takes for the same model, and that is spelt differently."""
    return f"{_DEFAULT_PREFIXES[1]}{name}" if ":" in name else f"{name}{_DEFAULT_TAG}"


class ModelNames:
    """Maps what clients and nodes call a model to the name that the cluster's specification has for it."""

    def __init__(self, known: Iterable[str]) -> None:
        self._known = {canonical(name): name for name in known}
        self._gone: set[str] = set()

    def __contains__(self, name: str) -> bool:
        short = canonical(name)
        return short in self._known and short not in self._gone

    def __iter__(self) -> Iterator[str]:
        """Each model's name, once."""
        return iter(dict.fromkeys(name for short, name in self._known.items() if short not in self._gone))

    def of(self, name: str) -> str:
        """The cluster's name for the model; of a model that the cluster does not know, the canonical one."""
        short = canonical(name)
        return self._known.get(short, short)

    def add(self, name: str, of: str = "") -> None:
        """A model that was not known, or that no node had; `of`: it is one more name of that model of the cluster's, or,
        where this is its own name, a model of its own from now on."""
        short = canonical(name)
        if of:
            self._known[short] = of
        else:
            self._known.setdefault(short, name)
        self._gone.discard(short)

    def discard(self, name: str) -> None:
        """A model that no node has any more; should it come back, it has the name that it had."""
        self._gone.add(canonical(name))
