"""The checkers that run beside every simulation, one file each. They watch; they change nothing.

Adding one is adding a file with a `Checker` subclass here.
"""

from __future__ import annotations

import importlib
import pkgutil

from twin.sim.checkers.base import Checker


def all_checkers(settled: bool = True) -> list[Checker]:
    """A fresh one of each, by name; for a run that does not settle (`settle_s`: 0) without those that ask for it."""
    found: list[Checker] = []
    for module in pkgutil.iter_modules(__path__):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        for value in vars(loaded).values():
            if not isinstance(value, type) or not issubclass(value, Checker) or value is Checker:
                continue
            if settled or not value.needs_settling:
                found.append(value())
    return sorted(found, key=lambda checker: checker.name)
