"""Every page in headless Chromium: it is drawn, says nothing of errors, asks no other machine, and fits."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlparse

import pytest

from reports.static import write_report
from tests.reports.app_server import serving
from tests.reports.browser import CHROMIUM, browser
from tests.reports.conftest import Made
from tests.reports.controller import controlled
from tests.reports.evaluation import EVALUATION

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH; apt-get install chromium"),
]

PAGES = {
    "": ("Select some to look at them", 0),
    "run": ("A crashed node costs no admitted request.", 8),
    "recovery": ("Not yet recovered from", 2),
    "overhead": ("Probe traffic", 1),
    "prediction": ("Reliability", 5),
    "compare": ("Ranking", 1),
    "worlds": ("Side by side", 10),
    "sweep": ("The claim holds at", 2),
    "cluster": ("No controller can be looked at", 0),
}
"""What each page must say, and at least how many charts it has."""

CUT = """JSON.stringify([...document.querySelectorAll('.chart svg text')].filter(text => {
  const box = text.getBoundingClientRect(), whole = text.closest('svg').getBoundingClientRect();
  const outside = box.left < whole.left - 1 || box.right > whole.right + 1;
  const shown = box.width > 0 && getComputedStyle(text).opacity !== '0';  // Vega hides labels that have no room
  return shown && (outside || text.textContent.includes('…'));
}).map(text => text.textContent))"""
"""The words of the charts that do not stand in them whole."""

WRONG = ("Traceback", "Error:", "Uncaught", "This app has encountered an error", "Page not found")


async def test_every_page_of_the_app_is_drawn_in_both_schemes(made: Made, tmp_path: Path) -> None:
    (made.root / "evaluation.json").write_text(json.dumps(EVALUATION))
    try:
        async with serving(made.root, "http://127.0.0.1:9") as url, browser() as tab:
            for name, (words, charts) in PAGES.items():
                for dark in (False, True):
                    seen = await tab.open(f"{url}/{name}", width=1280, dark=dark)
                    picture = tmp_path / f"{name or 'runs'}-{'dark' if dark else 'light'}.png"
                    await tab.picture(picture, width=1280)
                    seen = await tab.still()
                    assert words in seen["text"], name
                    assert not [wrong for wrong in WRONG if wrong in seen["text"]], name
                    drawn = await tab.evaluate("document.querySelectorAll('[data-testid=\"stVegaLiteChart\"]').length")
                    assert drawn >= charts, name
                    assert seen["width"] <= 1280, name
                    assert {urlparse(each).hostname for each in seen["requested"]} <= {"127.0.0.1", None, ""}, name
                    assert picture.stat().st_size > 20_000
            assert not tab.errors
    finally:
        (made.root / "evaluation.json").unlink()


async def test_the_static_pages_need_no_network_and_fit_a_phone(made: Made, tmp_path: Path) -> None:
    evaluation = tmp_path / "evaluation.json"
    evaluation.write_text(json.dumps(EVALUATION))
    pages = []
    for name, folders in {
        "run": [made.twin],
        "worlds": [made.live, made.twin],
        "compare": [made.compare],
        "sweep": [made.sweep],
        "calm": [made.calm],
        "evaluation": [evaluation],
    }.items():
        pages.append(tmp_path / f"{name}.html")
        write_report(folders, pages[-1])
    async with browser() as tab:
        await tab.call("Network.enable")
        await tab.call(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
        )
        for page in pages:
            for width in (1280, 390):
                seen = await tab.open(f"file://{page}", width=width, dark=width == 390)
                assert not seen["requested"], page.name
                assert seen["width"] <= width, (page.name, width, seen["width"])
                assert json.loads(await tab.evaluate(CUT)) == [], (page.name, width)
                drawn = await tab.evaluate("document.querySelectorAll('.chart svg').length")
                assert drawn == await tab.evaluate("document.querySelectorAll('.chart').length") > 0
        assert not tab.errors


async def test_the_cluster_page_follows_a_running_controller_until_it_is_gone(made: Made, tmp_path: Path) -> None:
    with controlled(tmp_path) as controller:
        controller.generate()
        async with serving(made.root, controller.admin) as url, browser() as tab:
            for dark in (False, True):
                await tab.go(f"{url}/cluster", width=1280, dark=dark)
                await tab.until("3 of 3")
            controller.kill("c")
            seen = await tab.until("2 of 3")  # nobody has touched the page
            assert "server down" in seen
            assert not [wrong for wrong in WRONG if wrong in seen]
            await tab.picture(tmp_path / "cluster.png", width=1280, moves=True)
            controller.kill("serve")
            seen = await tab.until("and is gone")
            assert "Connection refused" in seen
            assert not tab.errors
