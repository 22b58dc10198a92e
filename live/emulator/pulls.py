"""`/api/pull` of an emulated node: progress lines, and an end that the node's files and its line to the registry decide."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable

from aiohttp import ClientConnectionResetError, web

from live.emulator.calls import JsonObject, Refused, parse_object, text_field
from twin.sim.node import ModelOnNode, OllamaNode

_GIB = 1 << 30
GO_TYPE = "api.PullRequest"


async def pull(request: web.Request, node: OllamaNode, find: Callable[[str], ModelOnNode]) -> web.StreamResponse:
    """Answer a pull as Ollama does: with `stream` (the default) a line for each step, the last `success` or an error."""
    try:
        fields = parse_object(await request.read(), GO_TYPE)
        model = find(text_field(fields, "model", GO_TYPE) or text_field(fields, "name", GO_TYPE))
    except Refused as refused:
        return web.json_response({"error": str(refused)}, status=refused.status)
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_end(error: str) -> None:
        if not ended.done():
            ended.set_result(error)

    node.files.pull(model.name, on_end)
    if fields.get("stream") is False:
        error = await ended
        return web.json_response({"error": error} if error else {"status": "success"}, status=500 if error else 200)
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    digest = hashlib.sha256(model.name.encode()).hexdigest()
    try:
        await _line(response, {"status": "pulling manifest"})
        size = round(model.size_gib * _GIB)
        await _line(response, {"status": f"pulling {digest[:12]}", "digest": f"sha256:{digest}", "total": size})
        error = await ended
        await _line(response, {"error": error} if error else {"status": "success"})
        await response.write_eof()
    except ClientConnectionResetError:
        pass  # the client is gone; what it wanted is downloaded all the same
    return response


async def _line(response: web.StreamResponse, record: JsonObject) -> None:
    await response.write(json.dumps(record).encode() + b"\n")
