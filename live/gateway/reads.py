"""Questions that any node can answer, such as `/api/version`: passed on to one node, and to the next where it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from live.gateway.dialect import one_line
from live.gateway.upstream import AnswerReader, AttemptFailed, Upstream


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """A node's whole answer."""

    node: str
    status: int
    content_type: str
    body: bytes


class ReadFailed(Exception):
    """No node answered; the message says what each did."""


class Reads:
    """Asks one node after another, beginning with the one that answered last."""

    def __init__(self, upstream: Upstream, nodes: Sequence[str], *, timeout_s: float, limit_bytes: int) -> None:
        self.nodes = list(nodes)
        self._upstream = upstream
        self._timeout_s = timeout_s
        self._limit_bytes = limit_bytes
        self._first = 0

    async def ask(self, method: str, path: str, body: bytes = b"", *, knows_all: bool = True) -> ReadAnswer:
        """The first good answer. Raises `ReadFailed`.

        A 4xx is an answer too, but for a question about one model (`knows_all` is false) another node may know more.
        """
        failures: list[str] = []
        refusal: ReadAnswer | None = None
        for index in range(len(self.nodes)):
            place = (self._first + index) % len(self.nodes)
            node = self.nodes[place]
            try:
                answer = await self.ask_node(node, method, path, body)
            except AttemptFailed as failure:
                failures.append(f"{node}: {failure.error}: {failure.detail}")
                continue
            if answer.status >= 500:
                failures.append(f"{node}: status {answer.status}: {one_line(answer.body.decode(errors='replace'))}")
            elif answer.status >= 400 and not knows_all:
                refusal = refusal or answer
            else:
                self._first = place
                return answer
        if refusal is not None:
            return refusal
        raise ReadFailed(f"no node answered {method} {path}: {'; '.join(failures)}")

    async def ask_node(self, node: str, method: str, path: str, body: bytes = b"") -> ReadAnswer:
        """One node's answer, whatever its status. Raises `AttemptFailed`."""
        headers = {"Content-Type": "application/json"} if body else None
        reader = AnswerReader()
        reader.exchange = self._upstream.send(reader, node, method, path, body, headers)
        try:
            async with asyncio.timeout(self._timeout_s):
                await reader.head()
                whole = await reader.whole(self._limit_bytes)
        except TimeoutError:
            raise AttemptFailed("first_token_timeout", f"no answer within {self._timeout_s:g} s") from None
        finally:
            reader.close()
        return ReadAnswer(node, reader.status, reader.content_type, whole)
