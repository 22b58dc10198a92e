"""Which models one runner of Ollama serves: what `/api/show` says of it, and what a real node does."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from live.controller.discovery import discover
from live.controller.runners import look_alikes, runner_of
from tests.live.conftest import MODEL, MakeNode

WEIGHTS, OTHER = "a" * 64, "b" * 64
LLAMA, QWEN = {"family": "llama", "parameter_size": "8B"}, {"family": "qwen2", "parameter_size": "8B"}


def shown(*above: str, parameters: str = "", text: str = "") -> dict[str, object]:
    lines = ["# Modelfile generated", "# FROM m:latest", "", *above, f'TEMPLATE """{text}"""', 'PARAMETER stop "x"']
    return {"modelfile": "\n".join(lines), "parameters": parameters}


BASE = runner_of(shown(f"FROM /root/.ollama/models/blobs/sha256-{WEIGHTS}", parameters="num_ctx    4096"))


@pytest.mark.parametrize(
    "same",
    [
        shown(f"FROM C:\\models\\blobs\\sha256-{WEIGHTS}", parameters="num_ctx 4096"),
        shown(f"FROM /x/sha256-{WEIGHTS}", parameters='stop     "a b"\ntemperature 0.1\nnum_ctx  4096\nseed 7'),
        shown(f"FROM /x/sha256-{WEIGHTS}", parameters="num_ctx 4096", text=f"\nFROM /x/sha256-{OTHER}\n"),
    ],
)
def test_texts_and_sampling_make_no_other_runner(same: dict[str, object]) -> None:
    assert runner_of(same) == BASE != ""


@pytest.mark.parametrize(
    "other",
    [
        shown(f"FROM /x/sha256-{OTHER}", parameters="num_ctx 4096"),
        shown(f"FROM /x/sha256-{WEIGHTS}", parameters="num_ctx 8192"),
        shown(f"FROM /x/sha256-{WEIGHTS}"),
        shown(f"FROM /x/sha256-{WEIGHTS}", parameters="num_ctx 4096\nnum_batch 64"),
        shown(f"FROM /x/sha256-{WEIGHTS}", parameters="num_ctx 4096\nsomething_new 1"),
        shown(f"FROM /x/sha256-{WEIGHTS}", f"ADAPTER /x/sha256-{OTHER}", parameters="num_ctx 4096"),
        shown(f"FROM /x/sha256-{WEIGHTS}", f"FROM /x/sha256-{OTHER}", parameters="num_ctx 4096"),
    ],
)
def test_other_weights_adapters_projectors_and_options_of_a_runner_do(other: dict[str, object]) -> None:
    assert runner_of(other) not in ("", BASE)


@pytest.mark.parametrize("silent", [{}, {"modelfile": 7}, shown("FROM cloud-model"), shown(), {"modelfile": ""}])
def test_what_does_not_name_its_files_is_like_nothing_else(silent: dict[str, object]) -> None:
    assert runner_of(silent) == ""


def test_only_models_that_look_alike_are_asked_for() -> None:
    models: dict[str, dict[str, object]] = {
        "m": {"digest": "1", "details": LLAMA},
        "copy": {"digest": "1", "details": LLAMA},
        "made": {"digest": "2", "details": dict(reversed(LLAMA.items()))},
        "q": {"digest": "3", "details": QWEN},
        "q-copy": {"digest": "3", "details": QWEN},
        "silent": {"digest": "4"},
        "nameless": {"details": LLAMA},
    }
    assert sorted(look_alikes(models)) == ["copy", "m", "made"]


@pytest.mark.real
async def test_a_real_node_serves_them_by_one_runner_and_the_others_in_its_place(make_node: MakeNode) -> None:
    node = await make_node()
    async with aiohttp.ClientSession(node.address) as http:

        async def post(path: str, **body: Any) -> dict[str, Any]:
            async with http.post(path, json={**body, "stream": False}) as answer:
                assert answer.status == 200, await answer.text()
                said: dict[str, Any] = json.loads(await answer.text())
                return said

        async def loaded() -> list[str]:
            async with http.get("/api/ps") as answer:
                return [model["name"] for model in (await answer.json())["models"]]

        async def generate(model: str) -> None:
            await post("/api/generate", model=model, prompt="ba", options={"num_predict": 2})

        await post("/api/create", model="sys", **{"from": MODEL}, system="Be short.", parameters={"temperature": 0.5})
        await post("/api/create", model="wide", **{"from": MODEL}, parameters={"num_ctx": 1024})
        (report,) = await discover({"a": node.address})
        assert report.runners["sys"] == report.runners[MODEL] != ""
        assert {"sys", "wide"} <= report.made
        assert report.runners["wide"] not in ("", report.runners[MODEL])
        for model in (MODEL, "sys"):
            await generate(model)
        assert (await loaded(), len(node.runner_pids())) == ([MODEL], 1)
        await generate("wide")
        assert (await loaded(), len(node.runner_pids())) == (["wide:latest"], 1)
        await post("/api/generate", model="wide", keep_alive=0)
        await generate("sys")
        await post("/api/generate", model=MODEL, keep_alive=0)
        async with asyncio.timeout(10):
            while await loaded():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
