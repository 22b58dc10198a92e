"""The conditions of one simulated node: who set what, and the value that holds."""

from __future__ import annotations

from twin.scenario.conditions import CONDITIONS, combined


class Conditions:
    """`values` has every condition by name, neutral where nobody sets it; `disturbed` says whether anybody does."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {name: row.neutral for name, row in CONDITIONS.items()}
        self.disturbed = False
        self._set_by: dict[str, dict[object, float]] = {}

    def set(self, owner: object, name: str, value: float) -> None:
        """`owner` (a fault) sets a condition; it replaces what the same owner set before."""
        self._set_by.setdefault(name, {})[owner] = value
        self.values[name] = combined(name, self._set_by[name].values())
        self.disturbed = True

    def set_now(self) -> list[str]:
        """The names of the conditions that somebody sets."""
        return list(self._set_by)

    def withdraw(self, owner: object) -> list[str]:
        """Take back all that `owner` set; the names of these conditions."""
        names = [name for name, owners in self._set_by.items() if owners.pop(owner, None) is not None]
        for name in names:
            self.values[name] = combined(name, self._set_by[name].values())
            if not self._set_by[name]:
                del self._set_by[name]
        self.disturbed = bool(self._set_by)
        return names
