"""A headless Chromium, driven over its DevTools protocol: opens a page, waits until it stands still, and photographs it."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
START_LIMIT_S = 30.0
STILL_LIMIT_S = 60.0
LOOK_S = 0.4
STILL_LOOKS = 6
SOME_TEXT = 60  # characters: less is a frame that waits for its content
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
    "--disable-component-update",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
]

# What says whether the page still changes: its text, its pictures, whether Streamlit works, and how high it is.
LOOK = """(() => {
  const find = name => document.querySelector(name);
  const busy = find('[data-test-script-state="running"]') || find('[data-testid="stStatusWidget"]')
    || find('[data-testid="stSkeleton"]') || find('[data-testid="stSpinner"]');
  const inner = find('[data-testid="stMainBlockContainer"]') || document.body;
  return JSON.stringify({busy: !!busy, length: inner.innerText.length, text: document.body.innerText,
    marks: document.querySelectorAll('svg path, canvas').length,
    height: Math.max(inner.scrollHeight, inner.getBoundingClientRect().height),
    width: Math.max(document.documentElement.scrollWidth, inner.scrollWidth),
    requested: performance.getEntriesByType('resource').map(entry => entry.name)});
})()"""


class Tab:
    """A page in the browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._last = 0
        self.errors: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        await self._socket.send_json({"id": self._last, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=STILL_LIMIT_S)
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"])[:500])
            if message.get("id") == self._last:
                assert "error" not in message, message
                found: dict[str, Any] = message["result"]
                return found

    async def evaluate(self, script: str) -> Any:
        return (await self.call("Runtime.evaluate", expression=script, returnByValue=True))["result"].get("value")

    async def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> dict[str, Any]:
        """Open a page and wait until it stands still; what it then looks like, in numbers and text."""
        await self.go(url, width=width, height=height, dark=dark)
        return await self.still()

    async def go(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a page that never stands still."""
        await self.call("Page.enable")
        await self.call("Runtime.enable")
        colours = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.call("Emulation.setEmulatedMedia", features=colours)
        await self._size(width, height)
        await self.call("Page.navigate", url=url)

    async def still(self) -> dict[str, Any]:
        """Wait until the page stands still."""
        before, same = "", 0
        async with asyncio.timeout(STILL_LIMIT_S):
            while same < STILL_LOOKS:
                await asyncio.sleep(LOOK_S)
                seen = await self.evaluate(LOOK) or "{}"
                looked = json.loads(seen)
                quiet = seen == before and not looked.get("busy") and looked.get("length", 0) > SOME_TEXT
                before, same = seen, same + 1 if quiet else 0
        found: dict[str, Any] = json.loads(before)
        return found

    async def until(self, words: str) -> str:
        """Wait until the page says so; all that it then says. It may change all the while."""
        async with asyncio.timeout(STILL_LIMIT_S):
            while words not in (text := str(await self.evaluate("document.body.innerText") or "")):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)  # the page is another program's
        return text

    async def picture(
        self, path: Path, *, width: int, height: int = 0, height_max: int = 9000, moves: bool = False
    ) -> None:
        """Photograph it, as high as it is unless a height is given; when it stands still, unless it always `moves`."""
        if not height:
            looked = json.loads(await self.evaluate(LOOK))
            height = min(height_max, int(looked["height"]) + 60)
        await self._size(width, height)
        if moves:
            await asyncio.sleep(STILL_LOOKS * LOOK_S)
        else:
            await self.still()
        taken = await self.call("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(taken["data"]))

    async def _size(self, width: int, height: int) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )


@asynccontextmanager
async def browser() -> AsyncIterator[Tab]:
    """A tab of a browser of its own, which is ended afterwards."""
    assert CHROMIUM, "no Chromium on the PATH; apt-get install chromium"
    with tempfile.TemporaryDirectory(prefix="ollamamax-chromium-", ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            port = await _port(Path(folder) / "DevToolsActivePort")
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
                    tabs = [it for it in await response.json() if it["type"] == "page"]
                async with session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    yield Tab(socket)
        finally:
            process.terminate()
            await process.wait()


async def _port(path: Path) -> int:
    """Which port it chose: the first line of a file that it writes."""
    async with asyncio.timeout(START_LIMIT_S):
        while not (text := await asyncio.to_thread(_text, path)):  # noqa: ASYNC110  # another program writes it
            await asyncio.sleep(0.05)
    return int(text.split()[0])


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def _main(arguments: list[str]) -> None:
    url, path, width = arguments[0], Path(arguments[1]), int(arguments[2])
    async with browser() as tab:
        await tab.open(url, width=width, dark="dark" in arguments)
        await tab.picture(path, width=width)
        for error in tab.errors:
            sys.stderr.write(error + "\n")


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1:]))
