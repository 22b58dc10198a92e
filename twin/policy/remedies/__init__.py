"""The remedies, one file each. Adding one is adding a file here with a `Remedy` subclass."""

from __future__ import annotations

import importlib
import pkgutil

from twin.policy.remedies.base import Remedy


def all_remedies() -> list[Remedy]:
    """One of each, by name."""
    found: list[Remedy] = []
    for module in pkgutil.iter_modules(__path__):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        for value in vars(loaded).values():
            if isinstance(value, type) and issubclass(value, Remedy) and value is not Remedy:
                found.append(value())  # type: ignore[call-arg]  # a subclass says itself what it is about
    return sorted(found, key=lambda remedy: remedy.name)
