"""Every page of the app over a folder of runs, light and dark: `python -m tests.reports.screenshots RUNS OUT`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.reports.app_server import serving
from tests.reports.browser import browser

PAGES = ("runs", "run", "recovery", "overhead", "prediction", "compare", "worlds", "sweep", "cluster")
WIDTH = 1280


async def take(runs: Path, out: Path, admin: str | None, names: list[str]) -> None:
    """Photograph them; `admin` is the controller that the page "Cluster now" looks at, which then moves all the while."""
    async with serving(runs, admin) as url, browser() as tab:
        for name in names or PAGES:
            for dark in (False, True):
                moves = name == "cluster" and admin is not None
                address = f"{url}/{'' if name == 'runs' else name}"
                if moves:
                    await tab.go(address, width=WIDTH, dark=dark)
                    await tab.until("What the policy thinks")
                else:
                    await tab.open(address, width=WIDTH, dark=dark)
                await tab.picture(out / f"{name}-{'dark' if dark else 'light'}.png", width=WIDTH, moves=moves)


if __name__ == "__main__":
    Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
    asyncio.run(take(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None, sys.argv[4:]))
