"""The fault kinds, one file each. `FAULT_KINDS` finds them by their `kind`; adding one is adding a file here.

A fault says *what is done to the system*, as steps of primitive operations, and never what clients will see: the symptoms
follow from the mechanism. Both worlds perform the same steps; a world that lacks an operation says so before the run.
"""

from __future__ import annotations

import importlib
import pkgutil

from twin.scenario.faults.base import Fault


def _discover() -> dict[str, type[Fault]]:
    kinds: dict[str, type[Fault]] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name == "base":
            continue
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        for value in vars(loaded).values():
            if isinstance(value, type) and issubclass(value, Fault) and "about" in vars(value):
                kinds[value.about.kind] = value
    return dict(sorted(kinds.items()))


FAULT_KINDS: dict[str, type[Fault]] = _discover()
"""Kind to class, by name."""
