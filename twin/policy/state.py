"""The state of plain objects as plain data, for snapshots: numbers, texts, switches, lists of them, and objects of these.

Moments (absolute times) are kept as seconds before the snapshot, so that they make sense by the clock of whoever goes on.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any


def names_of(thing: object) -> tuple[str, ...]:
    """The attributes of a slotted object, compiled or not."""
    compiled: tuple[str, ...] | None = getattr(type(thing), "__mypyc_attrs__", None)
    names: tuple[str, ...] = compiled if compiled is not None else type(thing).__dict__["__slots__"]
    return names


def frozen(thing: object, now: float, moments: Collection[str], without: Collection[str] = ()) -> dict[str, Any]:
    """What the object holds, but for `without`. nan becomes None: JSON has none."""
    state: dict[str, Any] = {}
    for name in names_of(thing):
        if name in without:
            continue
        value = getattr(thing, name)
        if name in moments:
            value = now - value
        state[name] = _plain(value)
    return state


def thaw(thing: object, now: float, moments: Collection[str], state: dict[str, Any]) -> None:
    """Give an object what `frozen` gave. Names that are not there any more are left out, new ones stay as they are."""
    for name in names_of(thing):
        if name not in state:
            continue
        value = state[name]
        before = getattr(thing, name)
        if isinstance(before, list):  # a copy: several may go on from one snapshot
            value = [_number(each) for each in value] if before and isinstance(before[0], float) else list(value)
        elif isinstance(before, float):
            value = _number(value)
        if name in moments:
            value = now - value
        if isinstance(before, list) and len(before) != len(value) and before:
            continue  # of another version
        setattr(thing, name, value)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else math.copysign(1e300, value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value


def _number(value: Any) -> float:
    return math.nan if value is None else math.copysign(math.inf, value) if abs(value) >= 1e300 else float(value)
