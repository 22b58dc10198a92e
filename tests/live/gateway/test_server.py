"""Everything beside the three generating endpoints."""

import asyncio
import io
import json

import aiohttp
import pytest
from aiohttp import web

from live.gateway import orders
from live.gateway.form import form_field
from live.gateway.http_server import ServerLimits
from tests.live.gateway.conftest import House
from tests.live.gateway.doubles import SHED, StubNode, answers, generate_lines, streams, to, until
from twin.policy.vocabulary import AttemptEnded, NodeInventory


async def test_questions_go_to_the_next_node_where_one_fails(house: House) -> None:
    house.a.will(answers(500, b"{}"))
    house.b.will(answers(200, b'{"version":"1"}'))
    for _ in range(2):
        async with house.http.get(house.url + "/api/version") as response:
            assert (response.status, await response.read()) == (200, b'{"version":"1"}')
            assert response.headers["X-OllamaMax-Node"] == "b"
    assert len(house.a.bodies) == 1  # the one that answered is asked first


async def test_a_model_that_one_node_does_not_know_is_asked_of_the_next(house: House) -> None:
    house.a.will(answers(404, b'{"error":"not found"}'))
    house.b.will(answers(200, b'{"details":{}}'))
    assert (await house.post("/api/show", {"model": "m"}))[:2] == (200, b'{"details":{}}')
    assert house.b.bodies == [{"model": "m"}]
    house.b.behaviours.clear()
    house.b.will(answers(404, b'{"error":"not found"}'))
    assert (await house.post("/api/show", {"model": "x"}))[:2] == (404, b'{"error":"not found"}')


async def test_when_no_node_answers_a_question_the_error_names_each(make_house) -> None:  # type: ignore[no-untyped-def]
    house: House = await make_house(read_timeout_s=0.05)
    await house.a.stop()
    house.b.will(streams([], then="hang"))
    async with house.http.get(house.url + "/v1/models") as response:
        error = json.loads(await response.read())["error"]["message"]
    assert response.status == 502
    assert "a: refused" in error
    assert "b: first_token_timeout" in error


async def test_head_and_the_root_work_as_on_a_node(house: House) -> None:
    house.a.will(answers(200, b"Ollama is running", "text/plain"))
    async with house.http.head(house.url + "/") as response:
        assert response.status == 200
    async with house.http.get(house.url + "/") as response:
        assert await response.text() == "Ollama is running"


async def test_embeddings_are_routed_and_tried_again(house: House) -> None:
    house.routes(to("a"), to("b"))
    house.a.will(answers(500, b'{"error":"llama runner process has terminated"}'))
    house.b.will(answers(200, b'{"embeddings":[[1]]}'))
    status, body, headers = await house.post("/api/embed", {"model": "m", "input": ["one", "two"]})
    assert (status, body, headers["X-OllamaMax-Node"]) == (200, b'{"embeddings":[[1]]}', "b")
    assert [each.error for each in house.policy.of(AttemptEnded)] == ["server_error", ""]
    assert house.policy.asked[0][0].prompt_tokens == 2


async def test_what_is_not_offered_says_so(house: House) -> None:
    status, body, _ = await house.post("/api/nonsense", {})
    assert (status, "does not offer POST /api/nonsense" in json.loads(body)["error"]) == (404, True)
    status, body, _ = await house.post("/v1/images/variations", {})
    assert (status, "does not offer" in json.loads(body)["error"]["message"]) == (404, True)
    for path, allowed in (
        ("/api/generate", "POST"),
        ("/api/blobs/sha256:0", "HEAD, POST"),
        ("/v1/models/m", "GET, HEAD"),
    ):
        async with house.http.put(house.url + path, data=b"{}") as response:
            assert (response.status, response.headers["Allow"]) == (405, allowed)
            assert f"{path} takes {allowed}, not PUT" in await response.text()


async def test_who_is_signed_in_is_asked_of_one_node_and_signing_out_of_all(house: House) -> None:
    house.a.will(answers(401, b'{"error":"unauthorized","signin_url":"https://x"}'))
    house.b.will(answers(200, b'{"name":"me"}'))
    assert (await house.post("/api/me", {}))[:2] == (200, b'{"name":"me"}')  # one that knows
    house.a.behaviours.clear()
    house.a.will(answers(200, b"{}"))
    asked = len(house.a.bodies), len(house.b.bodies)
    assert (await house.post("/api/signout", {}))[0] == 200
    assert (len(house.a.bodies), len(house.b.bodies)) == (asked[0] + 1, asked[1] + 1)
    await house.b.stop()
    status, _, headers = await house.post("/api/signout", {})
    assert (status, headers["X-OllamaMax-Nodes-Missing"]) == (200, "b")


async def test_images_are_requests_to_a_model_and_experiments_go_to_one_node(house: House) -> None:
    house.routes(to("b"), to("b"))
    house.b.will(answers(200, b'{"data":[]}'))
    house.a.will(answers(200, b'{"results":[]}'))
    for path in ("/v1/images/generations", "/v1/images/edits"):
        assert (await house.post(path, {"model": "m", "prompt": "a cat"}))[:2] == (200, b'{"data":[]}')
    assert (await house.post("/api/experimental/web_search", {"query": "x"}))[:2] == (200, b'{"results":[]}')


async def test_bad_requests_are_refused_without_asking_anyone(house: House) -> None:
    for data in (b"", b"{", b"[1]", b'{"model": 7}', b'{"model":"m","stream":"yes"}', b"[" * 10_000):
        async with house.http.post(house.url + "/api/generate", data=data) as response:
            assert response.status == 400, data
            assert "error" in json.loads(await response.read())
    assert not house.policy.asked


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/responses", "/v1/messages"])
async def test_a_body_that_is_encoded_is_refused_in_one_clear_line(house: House, path: str) -> None:
    headers = {"Content-Encoding": "ZSTD"}
    async with house.http.post(house.url + path, data=b"\x28\xb5\x2f\xfd", headers=headers) as response:
        assert response.status == 415
        assert b"does not decode bodies with Content-Encoding zstd" in await response.read()
    headers = {"Content-Encoding": "identity"}
    async with house.http.post(house.url + path, data=b"{", headers=headers) as response:
        assert response.status == 400
        assert b"is not JSON" in await response.read()


async def test_an_unknown_model_is_not_found(house: House) -> None:
    house.a.will(answers(200, b'{"models":[]}'))
    house.b.will(answers(200, b'{"models":[{"name":"m:latest","size":1}]}'))
    status, body, _ = await house.post("/api/generate", {"model": "x", "prompt": "p"})
    assert (status, body) == (404, b'{"error":"model \'x\' not found"}')


@pytest.mark.parametrize(("path", "kind"), [("/api/generate", str), ("/v1/chat/completions", dict)])
async def test_a_model_that_a_silent_node_may_have_is_not_denied(house: House, path: str, kind: type) -> None:
    house.a.will(answers(500, b'{"error":"not yet"}'))
    house.b.will(answers(200, b'{"models":[{"name":"m:latest","size":1}]}'))
    asked = {"model": "x", "prompt": "p", "messages": [{"role": "user", "content": "p"}]}
    status, body, headers = await house.post(path, asked)
    assert (status, headers["Retry-After"]) == (503, "1")
    error = json.loads(body)["error"]
    assert isinstance(error, kind)
    assert "model 'x' not found so far; not heard from yet: a" in str(error)
    house.a.will(answers(200, b'{"models":[]}'))
    house.a.behaviours.popleft()
    assert (await house.post(path, asked))[0] == 404
    house.a.will(answers(500, b'{"error":"no more"}'))
    house.a.behaviours.popleft()
    assert (await house.post(path, asked))[0] == 404, "what it last said counts"


async def test_who_asks_for_a_model_that_a_node_got_a_moment_ago_finds_it(house: House) -> None:
    listed = ["m"]

    async def behave(node: StubNode, request: web.Request, body: dict) -> web.StreamResponse:  # type: ignore[type-arg]
        if request.path == "/api/tags":
            names = list(listed)
            await asyncio.sleep(0.05)
            return web.json_response({"models": [{"name": name} for name in names]})
        if request.path == "/api/ps":
            return web.json_response({"models": []})
        return await streams(generate_lines())(node, request, body)

    house.a.will(behave)
    house.b.will(behave)
    house.routes(*[to("a")] * 3)

    async def ask(model: str) -> int:
        return (await house.post("/api/generate", {"model": model, "prompt": "p"}))[0]

    async with house.http.get(house.url + "/api/tags"):
        listed.append("new")
    assert await asyncio.gather(ask("new"), ask("new")) == [200, 200], "one look serves both"
    listed.append("newer")
    begun = asyncio.create_task(ask("nowhere"))
    await until(lambda: house.gateway._inventory._looks and house.gateway._inventory._next_look is None)
    listed.append("newest")
    assert await ask("newest") == 200, "a look that had begun before says nothing of it"
    assert await begun == 404


@pytest.mark.parametrize(
    "odd",
    [b'{"name":"x","size":1' + b"0" * 400 + b"}", b'{"name":"\\ud800"}', b'{"name":"x","size":NaN}', b"[[" * 5000],
)
async def test_a_list_that_is_none_spoils_no_other_nodes(house: House, odd: bytes) -> None:
    house.a.will(answers(200, b'{"models":[' + odd + b"]}"))
    house.b.will(answers(200, tags(("m", "1"))))
    async with house.http.get(house.url + "/api/tags") as response:
        assert response.status == 200
        assert "m" in [model["name"] for model in (await response.json())["models"]]
    assert [each.node for each in house.policy.of(NodeInventory)][-1] == "b"


async def test_numbers_that_json_cannot_say_are_the_clients_mistake(house: House) -> None:
    house.a.will(answers(200, b'{"models":[{"name":"m","context_length":4096}]}'))
    house.b.will(answers(200, b'{"models":[]}'))
    async with house.http.get(house.url + "/api/ps"):
        pass
    for path, fields in (
        ("/api/embed", b'"input":"x","options":{"num_ctx":2048,"top_p":1e999}'),
        ("/api/generate", b'"options":{"num_ctx":2048,"top_p":1e999}'),
        ("/api/generate", b'"prompt":"x","options":{"num_ctx":2048,"top_p":1e999}'),
        ("/api/pull", b'"stream":false,"speed":1e999'),
    ):
        async with house.http.post(house.url + path, data=b'{"model":"m",' + fields + b"}") as response:
            assert response.status == 400, (path, await response.read())
            assert "JSON" in json.loads(await response.read())["error"]


async def test_a_body_that_is_too_large_is_refused(make_house) -> None:  # type: ignore[no-untyped-def]
    house: House = await make_house(server=ServerLimits(body_bytes=1000))
    status, body, _ = await house.post("/api/generate", {"model": "m", "prompt": "x" * 2000})
    assert (status, "error" in json.loads(body)) == (413, True)


async def test_request_ids_are_kept_or_made(house: House) -> None:
    house.routes(SHED, SHED)
    body = {"model": "m", "prompt": "p"}
    _, _, headers = await house.post("/api/generate", body, headers={"X-Request-Id": "abc-1"})
    assert headers["X-Request-Id"] == "abc-1"
    _, _, headers = await house.post("/api/generate", body, headers={"X-Request-Id": "not one word"})
    assert len(headers["X-Request-Id"]) == 32
    assert [log.header_id for log in house.logs] == ["abc-1", headers["X-Request-Id"]]


async def test_clients_see_that_it_is_well_and_nothing_of_what_is_the_operators(house: House) -> None:
    async with house.http.get(house.url + "/-/healthz") as response:
        assert response.status == 200
    async with house.http.get(house.url + "/-/nodes") as response:
        assert response.status == 404  # not for clients


async def test_a_transcription_is_routed_by_the_model_in_its_form(house: House) -> None:
    house.routes(to("a"))
    house.a.will(answers(200, b'{"text":"hello"}'))
    fields = aiohttp.FormData({"model": "m", "language": "en"})
    fields.add_field("file", b"sound", filename="a.wav")
    async with house.http.post(house.url + "/v1/audio/transcriptions", data=fields) as response:
        assert (response.status, await response.read()) == (200, b'{"text":"hello"}')
    assert house.a.headers[0]["Content-Type"].startswith("multipart/form-data; boundary=")
    assert house.policy.asked[0][0].model == "m"


def form(*parts: tuple[str, bytes], last: bytes = b"--") -> bytes:
    return b"".join(b"--b\r\n%b\r\n\r\n%b\r\n" % (head.encode(), value) for head, value in parts) + b"--b" + last


DISPOSITION = "Content-Disposition: form-data; "
FILE = (f'{DISPOSITION}name="file"; filename="model"', b'--\r\n\r\n; name="model"\r\n\r\nno\r\n')


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (form(FILE, (f'{DISPOSITION}name="model"', b"m:8b")), "m:8b"),
        (form((f"{DISPOSITION}name=model; x=y", b"m")), "m"),
        (form((f'{DISPOSITION}name="model"\r\nContent-Type: text/plain', b"m"), FILE), "m"),
        (form((f'{DISPOSITION}name="model"', b"")), ""),
        (form((f'{DISPOSITION}name="model"', b"m" * 513)), ""),
        (form((f'{DISPOSITION}name="models"', b"m"), FILE), ""),
        (form((f'{DISPOSITION}name="model"', b"m"))[:-5], ""),
        (form(*[FILE] * 200, (f'{DISPOSITION}name="model"', b"m")), ""),
        (b"", ""),
    ],
)
def test_a_field_of_a_form_is_found_where_it_is(body: bytes, model: str) -> None:
    assert form_field(body, 'multipart/form-data; charset=x; boundary="b"', "model") == model
    assert form_field(body, "multipart/form-data", "model") == ""


@pytest.mark.parametrize("boundary", ["b", "z"])
async def test_a_form_that_seems_to_have_its_field_everywhere_holds_nobody_up(house: House, boundary: str) -> None:
    body = io.BytesIO(b"--b\r\n" + b'name="model"\r\n' * 300_000)
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    url = house.url + "/v1/audio/transcriptions"
    # A search that looks ahead from each of them takes an hour.
    async with asyncio.timeout(10), house.http.post(url, data=body, headers=headers) as response:
        assert response.status == 400
        assert "no field model" in (await response.json())["error"]["message"]


@pytest.mark.parametrize(
    ("path", "ends", "breaks"),
    [
        ("/v1/responses", ["response.completed"], "response.failed"),
        ("/v1/messages", ["message_delta", "message_stop"], "error"),
    ],
)
async def test_streams_of_responses_and_messages_are_whole_only_with_their_last_event(
    house: House, path: str, ends: list[str], breaks: str
) -> None:
    def said(kind: str) -> bytes:
        return f'event: {kind}\ndata: {{"type":"{kind}","delta":{{"stop_reason":"end_turn"}}}}\n\n'.encode()

    start = b'event: start\ndata: {"type":"start","text":"event: message_stop"}\n\n'
    end, broken = b"".join(map(said, ends)), said(breaks)
    house.routes(to("a"), to("a"), to("b"))
    house.a.will(streams([start, end[:9], end[9:]]), streams([start]))
    house.b.will(streams([start, broken], pause_s=0.03))
    body = {"model": "m", "input": "x", "messages": [], "stream": True}
    assert (await house.post(path, body))[1] == start + end
    answer = (await house.post(path, body))[1]
    assert answer.startswith(start + b"event: error\ndata: ")
    assert broken not in answer
    assert [log.outcome for log in house.logs] == ["succeeded", "failed"]
    assert [each.error for each in house.logs[1].failed_attempts] == ["no_terminal_record", "error_record"]


async def test_lists_are_merged_and_who_is_missing_is_named(make_house) -> None:  # type: ignore[no-untyped-def]
    house: House = await make_house(names=("a", "b", "c"), read_timeout_s=0.3)
    old = {"name": "m:latest", "digest": "1", "modified_at": "2026-01-01"}
    new = {"name": "m:latest", "digest": "2", "modified_at": "2026-02-01"}
    house.a.will(answers(200, json.dumps({"models": [old, {"name": "only-a", "size": 5}]}).encode()))
    house.b.will(answers(200, json.dumps({"models": [new, "nonsense", {"no": "name"}]}).encode()))
    house.nodes["c"].will(streams([], then="hang"))
    async with house.http.get(house.url + "/api/tags") as response:
        models = (await response.json())["models"]
        assert (response.headers["X-OllamaMax-Nodes"], response.headers["X-OllamaMax-Nodes-Missing"]) == ("a,b", "c")
    assert models == [new, {"name": "only-a", "size": 5}]
    inventories = house.policy.of(NodeInventory)
    assert {each.node: sorted(each.stored) for each in inventories} == {"a": ["m", "only-a"], "b": ["m"]}


def tags(*models: tuple[str, str]) -> bytes:
    listed = [
        {"name": name, "digest": digest, "modified_at": f"2026-01-0{day}"} for day, (name, digest) in enumerate(models)
    ]
    return json.dumps({"models": listed}).encode()


async def test_a_node_whose_list_has_no_end_is_left_out(make_house) -> None:  # type: ignore[no-untyped-def]
    house: House = await make_house(read_limit_bytes=1000)
    house.a.will(answers(200, tags(*((f"model-{number}", "1") for number in range(30)))))
    house.b.will(answers(200, tags(("m", "1"))))
    async with house.http.get(house.url + "/api/tags") as response:
        assert [model["name"] for model in (await response.json())["models"]] == ["m"]
        assert response.headers["X-OllamaMax-Nodes-Missing"] == "a"


async def test_the_newest_model_is_listed_first_as_on_a_node(house: House) -> None:
    house.a.will(answers(200, tags(("old", "1"), ("newer", "2"))))
    house.b.will(answers(200, tags(("new", "3"), ("newer", "2"), ("newest", "4"))))
    async with house.http.get(house.url + "/api/tags") as response:
        listed = [model["name"] for model in (await response.json())["models"]]
    assert listed == ["newest", "newer", "old", "new"]


async def test_a_copy_shares_the_state_of_its_model_and_keeps_its_name_for_node_and_client(house: House) -> None:
    for node in (house.a, house.b):
        node.will(answers(200, tags(("m:latest", "1"), ("copy:latest", "1"))))
    house.routes(to("a"))
    async with house.http.get(house.url + "/api/tags") as response:
        assert len((await response.json())["models"]) == 2
    assert [sorted(each.stored) for each in house.policy.of(NodeInventory)] == [["m"], ["m"]]
    house.a.behaviours.clear()
    house.a.will(streams(generate_lines()))
    await house.post("/api/generate", {"model": "copy", "prompt": "x"})
    assert house.policy.asked[0][0].model == "m"
    assert house.a.bodies[-1]["model"] == "copy"


async def test_a_model_made_from_another_shares_its_state_as_it_shares_its_runner(make_house) -> None:  # type: ignore[no-untyped-def]
    details = {"family": "llama", "parameter_size": "8B"}
    names = ("m", "sys", "wide")
    listed = [{"name": name, "digest": digest, "details": details} for name, digest in zip(names, "123", strict=True)]
    asked: list[str] = []

    async def behave(node: StubNode, request: web.Request, body: dict) -> web.StreamResponse:  # type: ignore[type-arg]
        if request.path == "/api/tags":
            return web.json_response({"models": listed})
        if request.path == "/api/ps":
            return web.json_response({"models": []})
        if request.path == "/api/show":
            asked.append(body["model"])
            parameters = "num_ctx 8192" if body["model"] == "wide" else "seed 1"
            return web.json_response({"modelfile": f"FROM /x/sha256-{'0' * 64}\n", "parameters": parameters})
        return await streams(generate_lines())(node, request, body)

    house: House = await make_house(inventory_period_s=0.02)
    house.a.will(behave)
    house.b.will(behave)
    await until(lambda: len(house.policy.of(NodeInventory)) >= 2)
    await asyncio.sleep(0.1)
    told = {(*each.stored, *each.shares) for each in house.policy.of(NodeInventory)}
    assert told == {("m", "wide", "m wide")}, "one with options of its own takes turns with it"
    assert sorted(asked) == ["m", "sys", "wide"], "each is looked up once, at one node"
    house.routes(to("a"))
    assert (await house.post("/api/generate", {"model": "sys", "prompt": "x"}))[0] == 200
    assert house.policy.asked[0][0].model == "m"
    assert any(body.get("model") == "sys" and "prompt" in body for body in house.a.bodies)


async def test_a_copy_that_changes_is_a_model_of_its_own(house: House) -> None:
    for node in (house.a, house.b):
        node.will(
            answers(200, tags(("m", "1"), ("copy", "1"))),
            answers(200, tags(("m", "1"), ("copy", "2"))),
            answers(200, tags(("m", "1"))),
        )
    house.routes(to("a"))
    for _ in range(2):
        async with house.http.get(house.url + "/api/tags"):
            pass
    assert [sorted(each.stored) for each in house.policy.of(NodeInventory)[2:]] == [["copy", "m"], ["copy", "m"]]
    async with house.http.get(house.url + "/api/tags"):
        pass
    assert (await house.post("/api/generate", {"model": "copy", "prompt": "x"}))[0] == 404


async def test_capitals_are_no_other_model(house: House) -> None:
    house.routes(to("a"))
    house.a.will(streams(generate_lines()))
    assert (await house.post("/api/generate", {"model": "M:Latest", "prompt": "x"}))[0] == 200
    assert house.policy.asked[0][0].model == "m"


async def test_a_push_goes_to_a_node_that_answers(make_house) -> None:  # type: ignore[no-untyped-def]
    house: House = await make_house(read_timeout_s=0.3)
    has = answers(200, tags(("m", "1")))
    house.a.will(has, streams([], then="hang"))
    house.b.will(has, has, has, streams([b'{"status":"success"}\n']), has)
    async with house.http.get(house.url + "/api/tags"):
        pass
    status, body, _ = await house.post("/api/push", {"model": "m"})
    assert (status, body) == (200, b'{"status":"success"}\n')
    assert {"model": "m"} in house.b.bodies


async def test_an_answer_that_is_not_what_it_says_is_none(house: House) -> None:
    house.routes(to("a"), to("b"), to("a"), to("b"))
    good = b'{"embeddings":[[1]]}'
    house.a.will(answers(200, b'{"embeddings":[[1'), answers(200, b"[" + b"1," * 40_000 + b"1]"))
    house.b.will(answers(200, good))
    for _ in range(2):
        assert (await house.post("/api/embed", {"model": "m", "input": "x"}))[:2] == (200, good)
    assert [each.error for each in house.policy.of(AttemptEnded)] == ["error_record", "", "error_record", ""]


async def test_pages_of_this_machine_and_those_that_are_configured_are_served(make_house) -> None:  # type: ignore[no-untyped-def]
    house: House = await make_house(origins=("https://*.example.org",))
    house.a.will(answers(200, b'{"version":"1"}'))
    for origin in ("http://localhost:3000", "https://ui.example.org", "tauri://localhost", "http://127.0.0.1"):
        async with house.http.get(house.url + "/api/version", headers={"Origin": origin}) as response:
            assert response.status == 200
            assert response.headers["Access-Control-Allow-Origin"] == origin
            assert response.headers["Vary"] == "Origin"


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost.evil.example", "http://127.0.0.1.x"]
)
async def test_other_pages_may_not_even_ask(house: House, origin: str) -> None:
    headers = {"Origin": origin}
    status, body, answered = await house.post("/api/generate", {"model": "m", "prompt": "x"}, headers=headers)
    assert (status, "origins" in json.loads(body)["error"]) == (403, True)
    assert "Access-Control-Allow-Origin" not in answered
    assert not house.policy.asked


async def test_a_browser_that_asks_beforehand_is_told(house: House) -> None:
    headers = {"Origin": "http://localhost:3000", "Access-Control-Request-Headers": "authorization,x-stainless-os"}
    async with house.http.options(house.url + "/v1/chat/completions", headers=headers) as response:
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
        assert response.headers["Access-Control-Allow-Headers"] == "authorization,x-stainless-os"
        assert "POST" in response.headers["Access-Control-Allow-Methods"]
    async with house.http.options(house.url + "/", headers={"Origin": "https://evil.example"}) as response:
        assert response.status == 403


async def test_a_page_sees_a_stream_as_well(house: House) -> None:
    house.routes(to("a"))
    house.a.will(streams(generate_lines()))
    headers = {"Origin": "http://localhost"}
    _, body, answered = await house.post("/api/generate", {"model": "m", "prompt": "x"}, headers=headers)
    assert (body, answered["Access-Control-Allow-Origin"]) == (b"".join(generate_lines()), "http://localhost")


async def test_a_pull_is_one_stream_of_all_nodes(house: House) -> None:
    def layer(completed: int) -> bytes:
        return json.dumps({"status": "pulling x", "digest": "x", "total": 9, "completed": completed}).encode() + b"\n"

    tags = answers(200, b'{"models":[{"name":"new:latest","size":3}]}')
    begin, success = b'{"status":"pulling manifest"}\n', b'{"status":"success"}\n'
    house.a.will(streams([begin, layer(3), layer(9), success]), tags)
    house.b.will(streams([begin, layer(1), layer(9), success], pause_s=0.02), tags)
    status, body, _ = await house.post("/api/pull", {"model": "new"})
    lines = [json.loads(each) for each in body.splitlines()]
    assert (status, lines[0], lines[-1]) == (200, {"status": "pulling manifest"}, {"status": "success"})
    done = [each["completed"] for each in lines if "digest" in each]
    assert done == sorted(done)
    assert done[-1] == 9
    assert [each["status"] for each in lines].count("success") == 1
    house.routes(to("a"))  # and it can be asked for at once
    house.a.behaviours.clear()
    house.a.will(answers(200, b'{"embeddings":[[1]]}'))
    assert (await house.post("/api/embed", {"model": "new", "input": "x"}))[0] == 200


async def test_a_node_that_says_ever_new_things_of_its_work_fills_no_memory(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "KINDS_MAX", 3)
    said = [json.dumps({"status": f"status {number}"}).encode() + b"\n" for number in range(10)]
    layer = '{{"status":"pulling","digest":"{}","total":9,"completed":{}}}\n'
    layers = [layer.format(number, done).encode() for number in range(10) for done in (1, 9)]
    tags = answers(200, b'{"models":[]}')
    house.a.will(streams([*said, *layers, b'{"status":"success"}\n'], pause_s=0.002), tags)
    house.b.will(streams([b'{"status":"success"}\n']), tags)
    _, body, _ = await house.post("/api/pull", {"model": "new"})
    lines = [json.loads(each) for each in body.splitlines()]
    assert [line["status"] for line in lines if "digest" not in line] == ["status 0", "status 1", "status 2", "success"]
    assert {line["digest"]: line["completed"] for line in lines if "digest" in line} == {"0": 9, "1": 9, "2": 9}


@pytest.mark.parametrize("streams_back", [True, False])
async def test_a_pull_that_fails_somewhere_says_where(house: House, streams_back: bool) -> None:
    tags = answers(200, b'{"models":[]}')
    house.a.will(streams([b'{"status":"success"}\n']), tags)
    house.b.will(streams([b'{"error":"no space left on device"}\n']), tags)
    status, body, _ = await house.post("/api/pull", {"model": "new", "stream": streams_back})
    assert status == (200 if streams_back else 500)
    assert json.loads(body.splitlines()[-1]) == {"error": "done on 1 of 2 nodes; b: no space left on device"}


async def test_a_pull_that_fails_everywhere_alike_gives_the_nodes_own_words(house: House) -> None:
    for node in (house.a, house.b):
        node.will(streams([b'{"error":"file does not exist"}\n']), answers(200, b'{"models":[]}'))
    assert (await house.post("/api/pull", {"model": "new"}))[1] == b'{"error":"file does not exist"}\n'


async def test_deleting_goes_to_who_has_it(house: House) -> None:
    house.a.will(answers(200, b'{"models":[{"name":"m:latest"}]}'), answers(200, b'{"models":[]}'), answers(200, b""))
    house.b.will(answers(200, b'{"models":[]}'))
    async with house.http.delete(house.url + "/api/delete", json={"model": "m"}) as response:
        assert (response.status, response.headers["X-OllamaMax-Nodes"]) == (200, "a")
    assert {"model": "m"} in house.a.bodies
    assert {"model": "m"} not in house.b.bodies
    async with house.http.delete(house.url + "/api/delete", json={"model": "nobody"}) as response:
        assert (response.status, (await response.json())["error"]) == (404, "model 'nobody' not found")


async def test_clients_are_told_apart_by_their_key_and_else_by_their_address(house: House) -> None:
    house.routes(*[to("a")] * 5)
    house.a.will(streams(generate_lines()))
    body = {"model": "m", "prompt": "x"}
    keys: list[dict[str, str]] = [
        {"Authorization": "Bearer one"},
        {"x-api-key": "two"},
        {"Authorization": "Bearer one"},
    ]
    for headers in (*keys, {}, {}):
        await house.post("/api/generate", body, headers=headers)
    one, two, again, nobody, nobody_again = [spec.client for spec, _ in house.policy.asked]
    assert (again, nobody_again) == (one, nobody)
    assert len({one, two, nobody, 0}) == 4
