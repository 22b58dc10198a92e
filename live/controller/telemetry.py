"""Telemetry in: asks the agents for their samples, and hands them on as observations. Without agents there is none."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping

import aiohttp
import structlog

from live.controller.transport import TooLong, plain_reason, read_whole
from twin.policy.vocabulary import TelemetrySample
from twin.record.schema import TELEMETRY
from twin.record.telemetry_columns import TELEMETRY_NAMES

_log = structlog.get_logger()

ANSWER_LIMIT_BYTES = 1 << 18
ANSWER_LIMIT_S = 3.0
STALE_S = 15.0
"""A sample is that much older than the agent's period when something that it reads hangs: a lost GPU's driver does."""
_KNOWN = frozenset(TELEMETRY_NAMES)
_COLUMNS: tuple[str, ...] = tuple(TELEMETRY.names)


class AgentPoller:
    """Asks every agent once a period. `agents` is node to URL, and may change meanwhile."""

    def __init__(
        self, agents: dict[str, str], token: str, on_sample: Callable[[TelemetrySample], None], *, period_s: float = 5.0
    ) -> None:
        self.agents = agents
        self.latest: dict[str, dict[str, float]] = {}
        """Node to the values of its last sample; no entry while its agent does not answer."""
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._on_sample = on_sample
        self._period_s = period_s
        self._problems: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="agents")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=ANSWER_LIMIT_S)
        async with aiohttp.ClientSession(
            timeout=timeout, headers=self._headers, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            while True:
                await asyncio.gather(*(self._ask(session, node, url) for node, url in list(self.agents.items())))
                await asyncio.sleep(self._period_s)

    async def _ask(self, session: aiohttp.ClientSession, node: str, url: str) -> None:
        problem = ""
        try:
            async with session.get(f"{url}/telemetry", allow_redirects=False) as response:
                answer = await read_whole(response, ANSWER_LIMIT_BYTES)
            if response.status == 200:
                values = checked(answer, node)
            else:
                problem = f"status {response.status}"
        except (aiohttp.ClientError, TimeoutError, OSError, TooLong, ValueError, RecursionError) as error:
            problem = plain_reason(error)
        if problem != self._problems.get(node, ""):
            self._problems[node] = problem
            _log.warning("agent", node=node, url=url, problem=problem or "none any more")
        if problem:
            self.latest.pop(node, None)
            return
        self.latest[node] = values
        self._on_sample(TelemetrySample(node, values))


def checked(answer: bytes, node: str) -> dict[str, float]:
    """The known columns of an agent's answer that have a value. Raises ValueError for one that is none, is old, or is of
    another node."""
    said = json.loads(answer)
    values = said.get("values") if isinstance(said, dict) else None
    if not isinstance(values, dict):
        raise ValueError("it answered without values; is it an agent?")
    if said.get("node") not in (None, "", node):
        raise ValueError(f"it is the agent of {said['node']!r}; give each node the address of its own agent")
    age_s, period_s = _number(said.get("age_s", 0.0)), _number(said.get("period_s", 0.0))
    if math.isnan(age_s) or math.isnan(period_s):
        raise ValueError("it does not say how old its sample is")
    if age_s > period_s + STALE_S:
        raise ValueError(f"its last sample is {age_s:g} s old: what it reads hangs")
    numbers = {name: _number(value) for name, value in values.items() if name in _KNOWN}
    return {name: value for name, value in numbers.items() if not math.isnan(value)}


def _number(value: object) -> float:
    """A finite number; nan where it is none, or too large for one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        number = float(value)
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def telemetry_row(known: Mapping[str, object]) -> tuple[object, ...]:
    """A row of the table `telemetry` in the order of its columns; what is not known is null."""
    return tuple(known.get(name) for name in _COLUMNS)
