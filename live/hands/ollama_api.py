"""What Ollama's own API can do: load a model, and ask for a model to be let go."""

from __future__ import annotations

import json
from collections.abc import Mapping

import aiohttp

from live.controller.transport import TooLong, plain_reason, read_whole, transport_error
from live.hands.protocol import HandError, HandResult
from twin.policy.vocabulary import Action

ANSWER_LIMIT_BYTES = 1 << 16
ERROR_TEXT_MAX = 300
# keep_alive: minus one is for ever, so that a replica that the policy wants does not go by itself.
_ORDERS = {"load": (-1, "load"), "unload": (0, "unload")}


class OllamaApiHands:
    """Loads and unloads models over the API of the node itself.

    An unload is graceful only: Ollama answers at once, and lets the model go when its last request has ended. Whether
    it helped is for the policy's next probe to say.
    """

    def __init__(self, addresses: Mapping[str, str], *, connect_timeout_s: float = 5.0) -> None:
        self._addresses = addresses
        self._connect_timeout_s = connect_timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def perform(self, action: Action) -> HandResult:
        """Send the empty-prompt generate that loads or unloads, and wait for its answer."""
        if action.kind not in _ORDERS:
            raise HandError(f"Ollama's API cannot {action.kind} {action.node}")
        keep_alive, expected = _ORDERS[action.kind]
        body = {"model": action.model, "keep_alive": keep_alive, "stream": False}
        try:
            async with self._open_session().post(
                f"{self._addresses[action.node]}/api/generate", json=body, allow_redirects=False
            ) as response:
                answer = await read_whole(response, ANSWER_LIMIT_BYTES)
        except TooLong as error:
            return HandResult("failed", f"{action.node} answered at too great a length: {error}")
        except (aiohttp.ClientError, OSError) as broken:
            kind = transport_error(broken)
            detail = f"{action.node}: {kind}: {plain_reason(broken)}"
            return HandResult("unknown" if kind == "reset" else "failed", detail)
        record = _object(answer)
        if response.status == 200 and record.get("done_reason") == expected:
            return HandResult("done")
        said = str(record.get("error") or record.get("done_reason") or answer[:ERROR_TEXT_MAX])
        return HandResult("failed", f"{action.node} answered {response.status}: {said[:ERROR_TEXT_MAX]}")

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


def _object(data: bytes) -> dict[str, object]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # then the raw answer is shown
        return {}
    return value if isinstance(value, dict) else {}
