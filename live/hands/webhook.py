"""A webhook as a hand: one HTTP POST of JSON, signed, repeated with the same idempotency key until it is answered.

The body is `{"id", "kind", "node", "model", "address", "reason"}`. Headers:

    Idempotency-Key        the same for every repetition of one order, and for no other order
    X-OllamaMax-Timestamp  seconds since 1970 when it was signed
    X-OllamaMax-Signature  sha256=HEX, HMAC-SHA256 of "TIMESTAMP.BODY" with the shared secret

Status 2xx is done, unless the answer is a JSON object whose `status` says `failed` (then `detail` says why). 408, 425,
429 and 5xx, a broken connection and silence are tried again, with a pause that doubles; every other status has failed.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from live.controller.transport import TooLong, object_in, plain_reason, read_whole
from live.hands.placeholders import filled
from live.hands.protocol import HandError, HandResult
from twin.policy.vocabulary import Action

ANSWER_LIMIT_BYTES = 1 << 16
TRY_AGAIN: frozenset[int] = frozenset({408, 425, 429})
PAUSE_MAX_S = 10.0


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where to send orders. `{node}`, `{host}` and `{address}` may stand in `url`."""

    url: str
    secret: bytes
    timeout_s: float = 10.0  # of one try
    tries: int = 4
    pause_s: float = 0.5  # before the second try; doubles


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """The value of `X-OllamaMax-Signature`; a receiver works it out in the same way and compares."""
    return "sha256=" + hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class WebhookHands:
    """Sends actions to an operator's own HTTP endpoint."""

    def __init__(self, webhook: Webhook, addresses: Mapping[str, str]) -> None:
        self._webhook = webhook
        self._addresses = addresses
        self._session: aiohttp.ClientSession | None = None

    async def perform(self, action: Action) -> HandResult:
        """Send it until it is answered or the tries are used up."""
        address = self._addresses.get(action.node)
        if action.kind != "restart" or address is None:
            raise HandError(f"no webhook is configured for {action.kind} of {action.node}")
        body = json.dumps(
            {
                "id": action.action_id,
                "kind": action.kind,
                "node": action.node,
                "model": action.model,
                "address": address,
                "reason": action.reason,
            }
        ).encode()
        url = filled(self._webhook.url, action, address)
        key = uuid.uuid4().hex
        pause_s = self._webhook.pause_s
        arrived = False  # perhaps: a connection was there
        said = ""
        for count in range(self._webhook.tries):
            if count:
                await asyncio.sleep(pause_s)
                pause_s = min(2.0 * pause_s, PAUSE_MAX_S)
            try:
                status, answer = await self._post(url, body, key)
            except TimeoutError:
                arrived, said = True, f"no answer within {self._webhook.timeout_s:g} s"
                continue
            except TooLong as error:
                raise HandError(f"{url} answered at too great a length: {error}") from error
            except aiohttp.ClientConnectorError as error:
                said = plain_reason(error)
                continue
            except (aiohttp.ClientError, OSError) as error:
                arrived, said = True, plain_reason(error)
                continue
            if status in TRY_AGAIN or status >= 500:
                said = f"status {status}: {_detail(answer)}"
                continue
            return _result(url, status, answer)
        return HandResult("unknown" if arrived else "failed", f"{url}: {said} ({self._webhook.tries} tries)")

    async def _post(self, url: str, body: bytes, key: str) -> tuple[int, bytes]:
        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": key,
            "X-OllamaMax-Timestamp": timestamp,
            "X-OllamaMax-Signature": signature(self._webhook.secret, timestamp, body),
        }
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._webhook.timeout_s), cookie_jar=aiohttp.DummyCookieJar()
            )
        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            return response.status, await read_whole(response, ANSWER_LIMIT_BYTES)

    async def close(self) -> None:
        """Close what is still open."""
        if self._session is not None:
            await self._session.close()


def _result(url: str, status: int, answer: bytes) -> HandResult:
    if not 200 <= status < 300:
        return HandResult("failed", f"{url} answered {status}: {_detail(answer)}")
    said = object_in(answer)
    if said.get("status") == "failed":
        return HandResult("failed", f"{url}: {said.get('detail') or 'failed'}")
    return HandResult("done", str(said.get("detail") or ""))


def _detail(answer: bytes) -> str:
    return " ".join(str(object_in(answer).get("detail") or answer[:200].decode(errors="replace")).split()) or "no text"
