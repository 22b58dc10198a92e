"""Where telemetry comes from: each source reads what it can, and leaves out what it cannot. Nothing is ever guessed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol, TypeAlias

import structlog

from live.controller.transport import plain_reason
from twin.record.telemetry_columns import TELEMETRY_NAMES

_log = structlog.get_logger()

Values: TypeAlias = dict[str, float | None]


class Source(Protocol):
    """Reads some of the columns."""

    def read(self) -> Values:
        """Their values now, blocking; null or absent is what cannot be read. Called by one thread at a time."""


class AsyncSource(Protocol):
    """Reads some of the columns over the network."""

    async def read(self) -> Values:
        """Their values now; null or absent is what cannot be read."""


class Collector:
    """One sample of all columns from all sources. A source that breaks leaves its columns null, and is logged once."""

    def __init__(self, sources: Sequence[Source], async_sources: Sequence[AsyncSource] = ()) -> None:
        self._sources = sources
        self._async_sources = async_sources
        self._broken: set[int] = set()

    async def sample(self) -> Values:
        """Every column of the table, in its order."""
        parts = await asyncio.gather(
            asyncio.to_thread(self._read_all), *(self._ask(source) for source in self._async_sources)
        )
        values: Values = dict.fromkeys(TELEMETRY_NAMES)
        for part in parts:
            for name, value in part.items():
                if value is not None:
                    values[name] = float(value)
        return values

    def _read_all(self) -> Values:
        values: Values = {}
        for source in self._sources:
            try:
                read = source.read()
            except Exception as error:  # noqa: BLE001
                # A driver that breaks must not take the rest of the telemetry with it.
                self._note(source, error)
                continue
            self._broken.discard(id(source))
            values |= {name: value for name, value in read.items() if value is not None}
        return values

    async def _ask(self, source: AsyncSource) -> Values:
        try:
            values = await source.read()
        except Exception as error:  # noqa: BLE001
            self._note(source, error)
            return {}
        self._broken.discard(id(source))
        return values

    def _note(self, source: object, error: Exception) -> None:
        if id(source) not in self._broken:
            self._broken.add(id(source))
            why = f"{type(error).__name__}: {plain_reason(error)}"
            _log.warning("telemetry_source_broken", source=type(source).__name__, why=why)
