"""Unmodified clients in front of unmodified Ollama: they must not notice that there is something between them."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import ollama as ollama_python
import openai
import pytest

from tests.live.conftest import MODEL, MakeNode
from tests.live.gateway.test_real_nodes import Cluster, in_front_of

pytestmark = pytest.mark.real

OPTIONS = {"seed": 11, "num_predict": 20, "temperature": 1}


@pytest.fixture
async def cluster(make_node: MakeNode, models: Path, tmp_path: Path) -> AsyncIterator[Cluster]:
    """Two nodes, each with a disk of its own."""
    nodes = {}
    for name in ("node-0", "node-1"):
        own = tmp_path / name / "models"
        await asyncio.to_thread(shutil.copytree, models, own)
        nodes[name] = await make_node(name, models=own)
    async with in_front_of(nodes) as cluster:
        yield cluster


async def has(cluster: Cluster, name: str) -> list[str]:
    """The nodes that have a model on their disk."""
    found = []
    for node, each in cluster.nodes.items():
        async with cluster.http.get(each.address + "/api/tags") as response:
            models = (await response.json())["models"]
        found += [node for model in models if model["name"] == name]
    return found


async def ran(*command: str | Path, stdin: bytes = b"", **environment: str) -> tuple[int, str]:
    """A command's exit code, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"PATH": "/usr/bin:/bin", **environment},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(30):
            output, _ = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")


async def test_the_ollama_command(cluster: Cluster, ollama: Path, tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "OLLAMA_HOST": cluster.url, "OLLAMA_NOHISTORY": "1"}

    async def run(*words: str) -> tuple[int, str]:
        return await ran(ollama, *words, **environment)

    assert MODEL in (await run("list"))[1]
    assert MODEL in (await run("ps"))[1]
    assert "llama" in (await run("show", MODEL))[1]
    assert (await run("cp", MODEL, "twin-of-it"))[0] == 0
    assert await has(cluster, "twin-of-it:latest") == ["node-0", "node-1"]
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text(f"FROM {MODEL}\nPARAMETER num_predict 5\nPARAMETER seed 3\n")
    code, output = await run("create", "short", "-f", str(modelfile))
    assert (code, "success" in output) == (0, True), output
    assert await has(cluster, "short:latest") == ["node-0", "node-1"]
    code, output = await run("run", "short", "ba da ga")
    assert (code, bool(output.strip())) == (0, True), output
    code, output = await run("pull", "localhost:1/nobody/has-this")
    assert code != 0
    assert "rror" in output
    assert (await run("rm", "short"))[0] == 0
    assert await has(cluster, "short:latest") == []
    code, output = await run("show", "short")
    assert (code, "not found" in output) == (1, True), output


async def test_a_model_file_is_uploaded_to_every_node(cluster: Cluster, ollama: Path, tmp_path: Path) -> None:
    modelfile = tmp_path / "Modelfile"
    blobs = next((tmp_path / "node-0" / "models").rglob("blobs"))
    gguf = max(blobs.iterdir(), key=lambda file: file.stat().st_size)
    upload = tmp_path / "own.gguf"
    # A file that no node has: the same tensors, with bytes behind them that nobody reads.
    await asyncio.to_thread(upload.write_bytes, gguf.read_bytes() + b"\0" * 3_000_000)
    modelfile.write_text(f"FROM {upload}\n")
    environment = {"HOME": str(tmp_path), "OLLAMA_HOST": cluster.url}
    code, output = await ran(ollama, "create", "own", "-f", str(modelfile), **environment)
    assert (code, "success" in output) == (0, True), output
    assert await has(cluster, "own:latest") == ["node-0", "node-1"]


async def test_ollama_python(cluster: Cluster) -> None:
    async with ollama_python.AsyncClient(host=cluster.url) as client:
        whole = await client.generate(MODEL, "ba da ga", options=OPTIONS)
        assert (whole.done, whole.eval_count) == (True, 20)
        parts = [part async for part in await client.generate(MODEL, "ba da ga", options=OPTIONS, stream=True)]
        assert "".join(part.response for part in parts) == whole.response
        chat = await client.chat(MODEL, [{"role": "user", "content": "ba"}], options=OPTIONS)
        assert chat.message.content
        assert len((await client.embed(MODEL, ["ba", "da"])).embeddings) == 2
        assert MODEL in [model.model for model in (await client.list()).models]
        assert [model.model for model in (await client.ps()).models] == [MODEL]
        assert (await client.show(MODEL)).modelinfo
        await client.copy(MODEL, "other")
        assert await has(cluster, "other:latest") == ["node-0", "node-1"]
        await client.delete("other")
        with pytest.raises(ollama_python.ResponseError, match="not found") as error:
            await client.generate("other", "ba")
        assert error.value.status_code == 404
        with pytest.raises(ollama_python.ResponseError):
            await client.pull("localhost:1/nobody/has-this")


async def test_openai_python(cluster: Cluster) -> None:
    async with openai.AsyncOpenAI(base_url=cluster.url + "/v1", api_key="none", max_retries=0) as client:
        messages = [{"role": "user", "content": "ba da ga"}]
        said = {"model": MODEL, "messages": messages, "seed": 11, "max_tokens": 20, "temperature": 1}
        whole = await client.chat.completions.create(**said)
        assert whole.usage.completion_tokens == 20
        stream = await client.chat.completions.create(**said, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == whole.choices[0].message.content
        completion = await client.completions.create(model=MODEL, prompt="ba", max_tokens=5, seed=1, stream=True)
        assert [chunk.choices[0].finish_reason async for chunk in completion][-1] == "length"
        assert len((await client.embeddings.create(model=MODEL, input=["ba", "da"])).data) == 2
        response = await client.responses.create(model=MODEL, input="ba da", max_output_tokens=5)
        assert response.output_text
        events = [
            event
            async for event in await client.responses.create(
                model=MODEL, input="ba da", max_output_tokens=5, stream=True
            )
        ]
        assert events[-1].type == "response.completed"
        assert MODEL in [model.id async for model in client.models.list()]
        assert (await client.models.retrieve(MODEL)).id == MODEL
        with pytest.raises(openai.NotFoundError, match="not found"):
            await client.chat.completions.create(**{**said, "model": "nobody"})


async def test_anthropics_messages(cluster: Cluster) -> None:
    body = {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "ba da"}]}
    status, answer, _ = await cluster.post("/v1/messages", body)
    assert (status, b'"type":"message"' in answer) == (200, True)
    status, answer, _ = await cluster.post("/v1/messages", {**body, "stream": True})
    assert (status, b"event: message_stop" in answer) == (200, True)
    status, answer, _ = await cluster.post("/v1/messages", {**body, "model": "nobody"})
    assert (status, b'"type":"not_found_error"' in answer) == (404, True)


async def test_curl(cluster: Cluster) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not on this machine")
    code, output = await ran("curl", "-sS", cluster.url)
    assert (code, output) == (0, "Ollama is running")
    code, output = await ran("curl", "-sS", "--http1.0", cluster.url + "/api/tags")
    assert (code, MODEL in output) == (0, True)
    code, output = await ran("curl", "-sSI", cluster.url + "/api/tags")
    assert (code, output.startswith("HTTP/1.1 200 OK")) == (0, True)
    body = f'{{"model": "{MODEL}", "prompt": "ba", "options": {{"num_predict": 3, "seed": 1}}}}'
    code, output = await ran("curl", "-sSN", cluster.url + "/api/generate", "-d", body)
    assert (code, '"done":true' in output.splitlines()[-1]) == (0, True)
    padded = body.encode() + b" " * 2_000_000  # long enough for curl to expect to be told to go on
    code, output = await ran(
        "curl", "-sSN", cluster.url + "/api/generate", "-H", "Expect: 100-continue", "--data-binary", "@-", stdin=padded
    )
    assert (code, '"done":true' in output.splitlines()[-1]) == (0, True)
    code, output = await ran("curl", "-sS", cluster.url + "/api/show", "-d", '{"model": "nobody"}')
    assert (code, "not found" in output) == (0, True)


async def test_a_node_that_is_down_is_named_where_models_change(cluster: Cluster) -> None:
    await cluster.nodes["node-1"].kill_server()
    async with cluster.http.get(cluster.url + "/api/tags") as response:
        assert response.headers["X-OllamaMax-Nodes-Missing"] == "node-1"
        assert MODEL in [model["name"] for model in (await response.json())["models"]]
    status, answer, _ = await cluster.post("/api/create", {"model": "derived", "from": MODEL})
    assert status == 200
    lines = answer.splitlines()
    assert b"not on node-1" in lines[-2]
    assert lines[-1] == b'{"status":"success"}'


async def test_a_node_whose_model_file_is_damaged_costs_nobody_a_request(cluster: Cluster, tmp_path: Path) -> None:
    blobs = next((tmp_path / "node-0" / "models").rglob("blobs"))
    for blob in blobs.iterdir():
        if blob.stat().st_size > 100_000:
            blob.write_bytes(b"what was a model")
    await cluster.post("/api/generate", {"model": MODEL, "keep_alive": 0}, cluster.nodes["node-0"].address)
    body = {"model": MODEL, "prompt": "ba da", "options": OPTIONS}
    status, answer, _ = await cluster.post("/api/generate", body, cluster.nodes["node-0"].address)
    assert (status, b"does not support generate" in answer) == (
        400,
        True,
    )  # a node's fault that looks like the client's
    for _ in range(12):
        status, answer, _ = await cluster.post("/api/generate", body)
        assert (status, b'"done":true' in answer) == (200, True)
    refused = [each for log in cluster.logs for each in log.failed_attempts if each.error == "client_error"]
    assert len(refused) == 1  # it is remembered
