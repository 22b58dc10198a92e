"""The README's pictures: the flagship's pages in headless Chromium. `make pictures` runs it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.reports.app_server import serving
from tests.reports.browser import browser

PICTURES = Path(__file__).parents[2] / "docs" / "images"


async def take(page: Path, runs: Path) -> None:
    """Photograph the page of a run, and two pages of the app over a folder of runs."""
    async with browser() as tab:
        await tab.open(f"file://{page}", width=1100)
        await tab.picture(PICTURES / "node-crash.png", width=1100, height=1330)
        async with serving(runs) as url:
            await tab.open(f"{url}/compare", width=1280)
            await tab.picture(PICTURES / "compare.png", width=1280, height=1100)
            await tab.open(f"{url}/recovery", width=1280, dark=True)
            await tab.picture(PICTURES / "recovery.png", width=1280, height=1090)


if __name__ == "__main__":
    asyncio.run(take(Path(sys.argv[1]).absolute(), Path(sys.argv[2])))
