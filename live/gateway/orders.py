"""What changes the nodes' models: pull, push, create, copy, delete, and the blobs of a create.

A model is pulled, created and copied on every node (a copy: on every node that has the original), so that every node
can stand in for another; it is deleted wherever it is; it is pushed from one node that has it. The nodes work side by
side, and their progress becomes one stream: each status once, and of each layer how far the slowest node is.

Said truthfully: `success` comes when every node that could be reached has succeeded. Nodes that could not be reached are
named in a line before it; a node that failed where others succeeded makes the whole an error that says who has it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence

from live.gateway.dialect import (
    BadRequest,
    Dialect,
    JsonObject,
    dumps,
    dumps_request,
    loads_record,
    one_line,
    parse_object,
)
from live.gateway.inventory import Gathered, Inventory
from live.gateway.lines import LineSplitter
from live.gateway.served_request import ServedRequest
from live.gateway.upstream import AnswerReader, AttemptFailed, NodeExchange, Upstream

_JSON = {"Content-Type": "application/json"}
_OF_OLLAMA = {"Content-Type": "application/json; charset=utf-8"}
_NOT_REACHED = frozenset({"refused", "unreachable"})
_DIGEST = re.compile(r"/api/blobs/sha256[:-][0-9a-f]{64}")
LINE_LIMIT_BYTES = 1 << 20
ANSWER_LIMIT_BYTES = 1 << 20
SILENCE_S = 600.0
"""A node that says nothing of its work for this long has failed: a large file is hashed without a word."""
KINDS_MAX = 10_000
"""Statuses, and layers, that are told apart in what a node says of its work: further ones are not passed on."""
QUICK_S = 30.0
"""The same of what takes no work: a copy, a deletion, the end of an upload."""


class _NodeFailed(Exception):
    """A node did not do it: its own status and words, or how it could not be asked."""

    def __init__(self, message: str, status: int = 502, *, reached: bool = True) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reached = reached


class Orders:
    """Carries out what changes models."""

    def __init__(self, upstream: Upstream, inventory: Inventory, nodes: Iterable[str], errors: Dialect) -> None:
        self._upstream = upstream
        self._inventory = inventory
        self._nodes = list(nodes)
        self._errors = errors

    # -- with progress ---------------------------------------------------------------------------------------------

    async def progress(self, request: ServedRequest) -> None:
        """`/api/pull`, `/api/create` and `/api/push`. Raises `BadRequest`."""
        fields = parse_object(request.body)
        name = fields.get("model") or fields.get("name")
        if not isinstance(name, str) or not name:
            raise BadRequest("model is required")
        streams = fields.get("stream") is not False
        targets = self._nodes
        if request.path == "/api/push":
            targets = (await self._holders(request, name))[0][:1]
            if not targets:
                return
        body = request.body if streams else dumps_request({**fields, "stream": True})
        merger = _Progress(targets)
        news = asyncio.Event()
        tasks = {node: asyncio.create_task(self._follow(node, request, body, merger, news)) for node in targets}
        try:
            everything = asyncio.gather(*tasks.values(), return_exceptions=True)
            everything.add_done_callback(lambda _done: news.set())
            while not everything.done():
                await news.wait()
                news.clear()
                await self._pass_on(request, merger, streams=streams)
            results = everything.result()
        finally:
            for task in tasks.values():
                task.cancel()
        failures = {node: each for node, each in zip(tasks, results, strict=True) if isinstance(each, _NodeFailed)}
        for each in results:
            if isinstance(each, BaseException) and not isinstance(each, _NodeFailed):
                raise each
        await self._inventory.refresh()
        await self._pass_on(request, merger, streams=streams)
        self._conclude(request, failures, len(targets), streams=streams)

    async def _pass_on(self, request: ServedRequest, merger: _Progress, *, streams: bool) -> None:
        lines = merger.take()
        if streams and lines:
            request.begin({"Content-Type": "application/x-ndjson"})
            request.write(b"".join(lines))
            await request.drained()

    def _conclude(
        self, request: ServedRequest, failures: Mapping[str, _NodeFailed], count: int, *, streams: bool
    ) -> None:
        failed = {node: each for node, each in failures.items() if each.reached}
        unreached = {node: each for node, each in failures.items() if not each.reached}
        succeeded = count - len(failures)
        if failed or not succeeded:
            told = {each.message for each in failures.values()}
            message = told.pop() if len(told) == 1 and not succeeded else _told(failures)
            if succeeded:
                message = f"done on {succeeded} of {count} nodes; {message}"
            status = max(each.status for each in failures.values())
            if request.begun:
                request.end(self._errors.error_line(message))
            elif streams and status < 400:
                request.begin({"Content-Type": "application/x-ndjson"})
                request.end(self._errors.error_line(message))
            else:
                request.respond(status if status >= 400 else 500, _JSON, self._errors.error_body(status, message))
            return
        if not streams:
            request.respond(200, _JSON | _missing(unreached), b'{"status":"success"}')
            return
        request.begin({"Content-Type": "application/x-ndjson"})
        note = dumps({"status": f"not on {_told(unreached)}"}) + b"\n" if unreached else b""
        request.end(note + b'{"status":"success"}\n')

    async def _follow(
        self, node: str, request: ServedRequest, body: bytes, merger: _Progress, news: asyncio.Event
    ) -> None:
        """One node's work, to its `success`. Raises `_NodeFailed`."""
        reader = AnswerReader()
        reader.exchange = self._upstream.send(reader, node, "POST", request.path, body, _JSON)
        lines = LineSplitter(LINE_LIMIT_BYTES)
        succeeded = False
        try:
            async with asyncio.timeout(SILENCE_S) as limit:
                status = await reader.head()
                if status != 200:
                    raise _NodeFailed(_error_text(await reader.whole(ANSWER_LIMIT_BYTES)), status)
                while data := await reader.read():
                    limit.reschedule(asyncio.get_running_loop().time() + SILENCE_S)
                    for line in lines.feed(data):
                        succeeded |= merger.add(node, line)
                    news.set()
            if rest := lines.rest().strip():
                succeeded |= merger.add(node, rest)
        except TimeoutError:
            raise _NodeFailed(f"it said nothing for {SILENCE_S:g} s") from None
        except AttemptFailed as failure:
            raise _NodeFailed(failure.detail, reached=failure.error not in _NOT_REACHED) from failure
        except ValueError as error:
            raise _NodeFailed(one_line(str(error))) from error
        finally:
            reader.close()
            merger.left(node)
        if not succeeded:
            raise _NodeFailed("it ended without success")

    # -- without ---------------------------------------------------------------------------------------------------

    async def copy(self, request: ServedRequest) -> None:
        """`/api/copy`: on every node that has the original. Raises `BadRequest`."""
        source = parse_object(request.body).get("source")
        await self._on_holders(request, source if isinstance(source, str) else "")

    async def delete(self, request: ServedRequest) -> None:
        """`/api/delete`: on every node that has it. Raises `BadRequest`."""
        fields = parse_object(request.body)
        name = fields.get("model") or fields.get("name")
        await self._on_holders(request, name if isinstance(name, str) else "")

    async def _on_holders(self, request: ServedRequest, model: str) -> None:
        if not model:
            raise BadRequest("model is required")
        holders, gathered = await self._holders(request, model)
        if not holders:
            return
        await self._on_nodes(request, holders, gathered)

    async def unload(self, request: ServedRequest, nodes: Sequence[str], gathered: Gathered) -> None:
        """On these nodes, which have the model loaded, as all nodes said that were asked."""
        await self._on_nodes(request, nodes, gathered)

    async def _on_nodes(self, request: ServedRequest, holders: Sequence[str], gathered: Gathered) -> None:
        results = await asyncio.gather(*(self._once(node, request) for node in holders), return_exceptions=True)
        failures: dict[str, _NodeFailed] = {}
        said = b""
        for node, each in zip(holders, results, strict=True):
            if isinstance(each, _NodeFailed):
                failures[node] = each
            elif isinstance(each, BaseException):
                raise each
            else:
                said = said or each
        await self._inventory.refresh()
        headers = _JSON | {"X-OllamaMax-Nodes": ",".join(node for node in holders if node not in failures)}
        if gathered.missing:
            headers["X-OllamaMax-Nodes-Missing"] = ",".join(gathered.missing)
        if not failures:
            request.respond(200, headers | _OF_OLLAMA if said else headers, said)
            return
        message = _told(failures)
        if len(failures) < len(holders):
            message = f"done on {len(holders) - len(failures)} of {len(holders)} nodes; {message}"
        status = max(each.status for each in failures.values())
        request.respond(status, headers, self._errors.error_body(status, message))

    async def _holders(self, request: ServedRequest, model: str) -> tuple[list[str], Gathered]:
        """The nodes that have the model and answer; where there are none, the client has been told."""
        gathered = await self._inventory.refresh()
        holders = [node for node in self._inventory.holders(model) if node in gathered.answers]
        if not holders:
            if gathered.answers:
                message, status = f"model '{model}' not found", 404
            else:
                message, status = f"no node answers: {gathered.reasons()}", 502
            request.respond(status, _JSON, self._errors.error_body(status, message))
        return holders, gathered

    async def _once(self, node: str, request: ServedRequest) -> bytes:
        status, body = await self._ask(node, request.method, request.target, request.body)
        if status != 200:
            raise _NodeFailed(_error_text(body), status)
        return body

    async def _ask(self, node: str, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        reader = AnswerReader()
        reader.exchange = self._upstream.send(reader, node, method, path, body, _JSON if body else None)
        return await self._answer(reader)

    async def _answer(self, reader: AnswerReader) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(QUICK_S):
                return await reader.head(), await reader.whole(ANSWER_LIMIT_BYTES)
        except TimeoutError:
            raise _NodeFailed(f"no answer within {QUICK_S:g} s", 504) from None
        except AttemptFailed as failure:
            raise _NodeFailed(failure.detail, reached=failure.error not in _NOT_REACHED) from failure
        finally:
            reader.close()

    # -- blobs -----------------------------------------------------------------------------------------------------

    async def _without(self, path: str) -> tuple[list[str], dict[str, _NodeFailed]]:
        """The nodes that lack a blob, and those that cannot say."""

        async def lacks(node: str) -> bool:
            return (await self._ask(node, "HEAD", path))[0] != 200

        results = await asyncio.gather(*(lacks(node) for node in self._nodes), return_exceptions=True)
        failures = {node: e for node, e in zip(self._nodes, results, strict=True) if isinstance(e, _NodeFailed)}
        return [node for node, each in zip(self._nodes, results, strict=True) if each is True], failures

    async def has_blob(self, request: ServedRequest) -> None:
        """`HEAD /api/blobs/...`: whether every node that can be reached has it."""
        if not _DIGEST.fullmatch(request.path):
            request.respond(400, _JSON, self._errors.error_body(400, "invalid digest format"))
            return
        lacking, failures = await self._without(request.path)
        none = len(failures) == len(self._nodes)
        request.respond(502 if none else 404 if lacking else 200, _missing(failures), b"")

    async def blob(self, request: ServedRequest) -> None:
        """`POST /api/blobs/...`: passed on as it comes to every node that lacks it, at the pace of the slowest."""
        if not _DIGEST.fullmatch(request.path):
            request.respond(400, _JSON, self._errors.error_body(400, "invalid digest format"))
            return
        lacking, failures = await self._without(request.path)
        uploads: dict[str, tuple[AnswerReader, NodeExchange]] = {}
        for node in lacking:
            reader = AnswerReader()
            reader.exchange = exchange = self._upstream.send(
                reader, node, "POST", request.path, None, {"Content-Type": "application/octet-stream"}
            )
            uploads[node] = (reader, exchange)
        try:
            while data := await request.part():
                for _, exchange in uploads.values():
                    exchange.write(data)
                for node, (reader, exchange) in list(uploads.items()):
                    try:
                        async with asyncio.timeout(QUICK_S):
                            await exchange.drained()
                    except TimeoutError:
                        failures[node] = _NodeFailed(f"it took nothing for {QUICK_S:g} s", 504)
                        reader.close()
                        del uploads[node]
            for _, exchange in uploads.values():
                exchange.end_body()
            results = await asyncio.gather(
                *(self._answer(reader) for reader, _ in uploads.values()), return_exceptions=True
            )
        finally:
            for reader, _ in uploads.values():
                reader.close()
        refused: tuple[int, bytes] | None = None
        stored = len(self._nodes) - len(lacking) - sum(node not in lacking for node in failures)
        for node, result in zip(uploads, results, strict=True):
            if isinstance(result, _NodeFailed):
                failures[node] = result
            elif isinstance(result, BaseException):
                raise result
            elif result[0] >= 400:
                refused = refused or result
                failures[node] = _NodeFailed(_error_text(result[1]), result[0])
            else:
                stored += 1
        if stored:
            request.respond(201 if lacking else 200, _missing(failures), b"")
        elif refused is not None:
            request.respond(refused[0], _JSON, refused[1])
        else:
            request.respond(502, _JSON, self._errors.error_body(502, _told(failures)))


class _Progress:
    """Makes one stream of the progress of several nodes."""

    def __init__(self, nodes: Iterable[str]) -> None:
        self._nodes = set(nodes)
        self._said: set[str] = set()
        self._layers: dict[str, dict[str, int]] = {}  # digest: node: bytes
        self._told: dict[str, int] = {}  # digest: bytes that the client knows of
        self._lines: dict[str, bytes] = {}  # what the client has not been told; of a layer only the newest

    def add(self, node: str, line: bytes) -> bool:
        """A line of a node; whether it is its `success`. Raises ValueError, and `_NodeFailed` where it says an error."""
        if not line.strip():
            return False
        fields = loads_record(line)
        if fields.get("error") is not None:
            raise _NodeFailed(one_line(str(fields["error"])), 200)
        status = fields.get("status")
        if status == "success":
            return True
        digest = fields.get("digest")
        if isinstance(digest, str) and isinstance(fields.get("total"), int):
            self._layer(node, digest, fields)
        elif isinstance(status, str) and status not in self._said and len(self._said) < KINDS_MAX:
            self._said.add(status)
            self._lines[f"status {status}"] = line if line.endswith(b"\n") else line + b"\n"
        return False

    def left(self, node: str) -> None:
        """A node has ended, one way or the other: it holds nothing up."""
        self._nodes.discard(node)

    def take(self) -> list[bytes]:
        """What the client is to be told now."""
        lines = list(self._lines.values())
        self._lines.clear()
        return lines

    def _layer(self, node: str, digest: str, fields: JsonObject) -> None:
        completed = fields.get("completed", 0)
        if len(self._layers) >= KINDS_MAX and digest not in self._layers:
            return
        layer = self._layers.setdefault(digest, {})
        layer[node] = completed if isinstance(completed, int) else 0
        slowest = min((layer.get(each, 0) for each in self._nodes if each in layer), default=layer[node])
        if self._told.get(digest, -1) < slowest:
            self._told[digest] = slowest
            self._lines[digest] = dumps({**fields, "completed": slowest} if slowest else fields) + b"\n"


def _told(failures: Mapping[str, _NodeFailed]) -> str:
    return "; ".join(f"{node}: {each.message}" for node, each in failures.items())


def _missing(failures: Mapping[str, _NodeFailed]) -> dict[str, str]:
    return {"X-OllamaMax-Nodes-Missing": ",".join(failures)} if failures else {}


def _error_text(body: bytes) -> str:
    try:
        error = loads_record(body).get("error")
    except ValueError:
        error = None
    return one_line(error if isinstance(error, str) else body.decode(errors="replace")) or "it gave no reason"
