"""The random models, as real Ollama reads them."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from live.rig.errors import RigError
from live.rig.model_files import DEFAULT, TINY, ensure_models, prompt_text, write_model
from tests.live.conftest import MODEL, MakeNode


async def ask(address: str, path: str, **body: Any) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession(address) as client,
        client.post(path, json={"model": MODEL, "stream": False, **body}) as answer,
    ):
        assert answer.status == 200, await answer.text()
        parsed: dict[str, Any] = await answer.json()
        return parsed


def test_the_same_size_gives_the_same_bytes(tmp_path: Path) -> None:
    write_model(tmp_path / "one", TINY)
    write_model(tmp_path / "two", TINY)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.real
async def test_models_are_made_once_and_then_found(
    ollama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMAMAX_CACHE", str(tmp_path))
    wanted = {"llama3.1:8b": TINY, "mistral:7b": TINY, "qwen3:32b": DEFAULT}
    folder = await ensure_models(ollama, wanted)
    manifests = folder / "manifests" / "registry.ollama.ai" / "library"
    assert {f"{path.parent.name}:{path.name}" for path in manifests.glob("*/*")} == wanted.keys()
    made = folder.stat()
    assert await ensure_models(ollama, wanted) == folder
    assert folder.stat() == made
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name], "scratch was left behind"


@pytest.mark.real
async def test_a_name_that_ollama_refuses_is_an_error_with_its_reason(
    ollama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMAMAX_CACHE", str(tmp_path))
    with pytest.raises(RigError, match="ollama create no such:name failed"):
        await ensure_models(ollama, {"no such:name": TINY})
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.real
@pytest.mark.parametrize("temperature", [0, 1])
async def test_a_generation_ends_at_num_predict_and_is_printable(make_node: MakeNode, temperature: float) -> None:
    node = await make_node()
    for seed in range(10):
        options = {"num_predict": 150, "seed": seed, "temperature": temperature}
        answer = await ask(node.address, "/api/generate", prompt=prompt_text(20, seed), options=options)
        assert (answer["done"], answer["done_reason"], answer["eval_count"]) == (True, "length", 150)
        assert answer["response"].isascii()
        assert answer["response"].isprintable()


@pytest.mark.real
async def test_prompt_text_has_the_wanted_number_of_tokens(make_node: MakeNode) -> None:
    node = await make_node()
    counts = []
    for tokens in (1, 50, 200):
        options = {"num_predict": 1}
        answer = await ask(node.address, "/api/generate", prompt=prompt_text(tokens, tokens), options=options)
        counts.append(answer["prompt_eval_count"] - tokens)
    assert len(set(counts)) == 1, f"the template adds the same to each, but got {counts}"


@pytest.mark.real
async def test_a_chat_goes_on_from_an_open_assistant_message(make_node: MakeNode) -> None:
    node = await make_node()
    question = {"role": "user", "content": prompt_text(10)}

    async def chat(spoken: str, tokens: int) -> dict[str, Any]:
        messages = [question] + ([{"role": "assistant", "content": spoken}] if spoken else [])
        # At temperature 0 and without a penalty, the rest of a text follows from its beginning alone.
        options = {"num_predict": tokens, "temperature": 0, "repeat_penalty": 1}
        return await ask(node.address, "/api/chat", messages=messages, options=options)

    whole = await chat("", 40)
    first = await chat("", 15)
    rest = await chat(first["message"]["content"], 25)
    assert first["message"]["content"] + rest["message"]["content"] == whole["message"]["content"]
    assert rest["prompt_eval_count"] == first["prompt_eval_count"] + 15
