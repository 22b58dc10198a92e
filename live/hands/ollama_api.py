"""What Ollama's own API can do: load a model, ask for one to be let go, pull one, copy one under another name."""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp

from live.controller.transport import (
    TooLong,
    cannot_generate,
    is_embedded,
    object_in,
    plain_reason,
    read_whole,
    transport_error,
)
from live.hands.protocol import HandError, HandResult
from twin.policy.vocabulary import Action

ANSWER_LIMIT_BYTES = 1 << 16
LINE_LIMIT_BYTES = 1 << 16
ERROR_TEXT_MAX = 300
_EXPECTED = {"load": "load", "unload": "unload"}


class OllamaApiHands:
    """Loads, unloads, pulls and copies models over the API of the node itself.

    An unload is graceful only: Ollama answers at once, and lets the model go when its last request has ended. Whether
    it helped is for the policy's next probe to say. A pull goes on on the node even when nobody listens any more. Ollama
    takes a file that is there for good without a look into it; so where a pull found all of them, and the registry thereby
    to have the model, they are deleted and fetched once more.
    """

    def __init__(
        self, addresses: Mapping[str, str], *, connect_timeout_s: float = 5.0, keep_alive_s: float | None = None
    ) -> None:
        """`keep_alive_s`: how long what it loads stays when idle; None: for ever."""
        self._addresses = addresses
        self._keep_alive: dict[str, int | str] = {
            "load": -1 if keep_alive_s is None else f"{keep_alive_s:g}s",
            "unload": 0,
        }
        self._connect_timeout_s = connect_timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def perform(self, action: Action) -> HandResult:
        """Send the call, and wait for its end."""
        if action.node not in self._addresses:
            raise HandError(f"no address is known of {action.node}")
        try:
            if action.kind in _EXPECTED:
                return await self._load_or_unload(action)
            if action.kind == "pull":
                return await self._pull(action)
            if action.kind == "copy":
                return await self._copy(action)
        except TooLong as error:
            return HandResult("failed", f"{action.node} answered at too great a length: {error}")
        except (aiohttp.ClientError, OSError) as broken:
            kind = transport_error(broken)
            detail = f"{action.node}: {kind}: {plain_reason(broken)}"
            return HandResult("unknown" if kind == "reset" else "failed", detail)
        raise HandError(f"Ollama's API cannot {action.kind} {action.node}")

    async def _load_or_unload(self, action: Action) -> HandResult:
        """The empty-prompt generate that loads or unloads.

        Ollama unloads an embedding model in this way, too, but refuses to load it; an embed without a text loads it. An
        embed with `keep_alive` 0 would unload, and first load what is not there.
        """
        keep_alive = self._keep_alive[action.kind]
        body: dict[str, object] = {"model": action.model, "keep_alive": keep_alive, "stream": False}
        if action.context_tokens:
            body["options"] = {"num_ctx": action.context_tokens}
        status, answer = await self._post(action.node, "/api/generate", body)
        record = object_in(answer)
        done = status == 200 and record.get("done_reason") == _EXPECTED[action.kind]
        if action.kind == "load" and cannot_generate(status, answer):
            status, answer = await self._post(action.node, "/api/embed", body)
            record = object_in(answer)
            done = status == 200 and is_embedded(record, 0)
        if done:
            return HandResult("done")
        said = str(record.get("error") or record.get("done_reason") or answer[:ERROR_TEXT_MAX])
        return HandResult("failed", f"{action.node} answered {status}: {said[:ERROR_TEXT_MAX]}")

    async def _copy(self, action: Action) -> HandResult:
        if not action.destination:
            raise HandError(f"a copy of {action.model} on {action.node} needs a new name")
        body = {"source": action.model, "destination": action.destination}
        status, answer = await self._post(action.node, "/api/copy", body)
        if status == 200:
            return HandResult("done")
        said = str(object_in(answer).get("error") or answer[:ERROR_TEXT_MAX])
        return HandResult("failed", f"{action.node} answered {status}: {said[:ERROR_TEXT_MAX]}")

    async def _pull(self, action: Action) -> HandResult:
        result, all_there = await self._pull_once(action)
        if result.status != "done" or not all_there:
            return result
        status, answer = await self._call("DELETE", action.node, "/api/delete", {"model": action.model})
        if status != 200:
            said = str(object_in(answer).get("error") or answer[:ERROR_TEXT_MAX])
            return HandResult("failed", f"{action.node} answered {status}: {said[:ERROR_TEXT_MAX]}")
        result, _ = await self._pull_once(action)
        return HandResult(result.status, result.detail or "its files were deleted, and fetched anew")

    async def _pull_once(self, action: Action) -> tuple[HandResult, bool]:
        """Its progress comes as lines for as long as it takes; only the line `success` is one. And whether it found every
        file there: then each layer is complete when it is first heard of."""
        layers = fetched = 0
        async with self._open_session().post(
            f"{self._addresses[action.node]}/api/pull", json={"model": action.model}, allow_redirects=False
        ) as response:
            if response.status != 200:
                answer = await read_whole(response, ANSWER_LIMIT_BYTES)
                said = str(object_in(answer).get("error") or answer[:ERROR_TEXT_MAX])
                return HandResult("failed", f"{action.node} answered {response.status}: {said[:ERROR_TEXT_MAX]}"), False
            rest = b""
            async for data in response.content.iter_any():
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > LINE_LIMIT_BYTES:
                    raise TooLong(f"a line of more than {LINE_LIMIT_BYTES} bytes")
                for line in lines:
                    record = object_in(line)
                    if "error" in record:
                        return HandResult("failed", f"{action.node}: {str(record['error'])[:ERROR_TEXT_MAX]}"), False
                    if "total" in record:
                        layers += 1
                        fetched += record.get("completed") != record["total"]
                    if record.get("status") == "success":
                        return HandResult("done"), bool(layers) and not fetched
        return HandResult("unknown", f"{action.node} ended its answer before the pull had ended"), False

    async def _post(self, node: str, path: str, body: Mapping[str, object]) -> tuple[int, bytes]:
        return await self._call("POST", node, path, body)

    async def _call(self, method: str, node: str, path: str, body: Mapping[str, object]) -> tuple[int, bytes]:
        async with self._open_session().request(
            method, f"{self._addresses[node]}{path}", json=body, allow_redirects=False
        ) as response:
            return response.status, await read_whole(response, ANSWER_LIMIT_BYTES)

    async def close(self) -> None:
        """Close what is still open."""
        if self._session is not None:
            await self._session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session
