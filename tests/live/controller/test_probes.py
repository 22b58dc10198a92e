"""The probe ladder against a node that behaves as it is told."""

import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from live.controller.probes import ANSWER_LIMIT_BYTES, TRAINED_ASKED_MAX, HttpProber
from tests.live.gateway.doubles import Behaviour, StubNode, answers, generate_lines, streams
from twin.policy.model_names import ModelNames, canonical
from twin.policy.vocabulary import Probe, ProbeKind, ProbeResult

HANG = streams([], then="hang")


@pytest.fixture
async def node() -> AsyncIterator[StubNode]:
    node = StubNode()
    await node.start()
    yield node
    await node.stop()


async def probe(node: StubNode, kind: ProbeKind, *, timeout_s: float = 1.0) -> ProbeResult:
    prober = HttpProber({"a": node.address}, ModelNames(["m", "n:latest"]))
    try:
        return await prober.perform(Probe(5, "a", kind, "m" if kind in ("generation", "load_path") else "", timeout_s))
    finally:
        await prober.close()


async def test_a_live_node_passes(node: StubNode) -> None:
    node.will(answers(200, b'{"version":"0.24.0"}'))
    result = await probe(node, "liveness")
    assert (result.probe_id, result.ok, result.error) == (5, True, "")
    assert 0 < result.latency_s < 1


async def test_residency_names_models_as_the_cluster_does(node: StubNode) -> None:
    node.will(answers(200, b'{"models":[{"name":"m:latest"},{"name":"n"},{"name":"library/o:7b"},{"x":1}]}'))
    result = await probe(node, "residency")
    assert (result.ok, result.models) == (True, ("m", "n:latest", "o:7b"))


async def test_residency_tells_with_which_context_a_model_is_loaded_where_the_node_does(node: StubNode) -> None:
    lists = [{"name": name, "digest": name, "context_length": tokens} for name, tokens in [("m", 8192), ("n", "x")]]
    node.will(answers(200, json.dumps({"models": lists}).encode()), shown({"x.context_length": 8193}))
    result = await probe(node, "residency")
    assert (result.models, result.contexts) == (("m", "n:latest"), (8192, 0))
    assert node.bodies[1:] == [{"model": "m"}]


def shown(about: object) -> Behaviour:
    """What `/api/show` says of a model."""
    return answers(200, json.dumps({"model_info": {"general.architecture": "x", **about}}).encode())  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("answer", "context_tokens"),
    [
        (shown({"x.context_length": 8192}), 0),
        (shown({"y.context_length": 8192}), 8192),
        (shown({"x.context_length": True}), 8192),
        (answers(200, b'{"model_info":7}'), 8192),
        (answers(200, b"[]"), 0),
        (answers(404, b'{"error":"model not found"}'), 0),
    ],
)
async def test_a_context_as_long_as_the_model_was_trained_for_says_not_what_was_asked_for(
    node: StubNode, answer: Behaviour, context_tokens: int
) -> None:
    lists = answers(200, b'{"models":[{"name":"m","digest":"d","context_length":8192}]}')
    node.will(lists, answer, lists)
    prober = HttpProber({"a": node.address}, ModelNames(["m"]))
    try:
        for number in range(2):
            result = await prober.perform(Probe(number, "a", "residency", "", 1.0))
            assert (result.ok, result.contexts) == (True, (context_tokens,))
    finally:
        await prober.close()
    assert len(node.bodies) == 3, "the model is asked for once"


async def test_a_node_that_lists_more_than_it_can_have_loaded_is_not_asked_for_all_of_it(node: StubNode) -> None:
    lists = [{"name": f"m{number}", "digest": f"{number}", "context_length": 8192} for number in range(1000)]
    node.will(answers(200, json.dumps({"models": lists}).encode()), shown({}))
    result = await probe(node, "residency", timeout_s=5.0)
    assert (len(result.models), sum(context > 0 for context in result.contexts)) == (1000, TRAINED_ASKED_MAX)
    assert len(node.bodies) == 1 + TRAINED_ASKED_MAX


async def test_a_node_that_does_not_show_its_models_is_well_all_the_same(node: StubNode) -> None:
    async def hangs(node: StubNode, _request: web.Request, _body: object) -> web.StreamResponse:
        await node.hang()
        raise AssertionError

    node.will(answers(200, b'{"models":[{"name":"m","digest":"d","context_length":8192}]}'), hangs)
    result = await probe(node, "residency", timeout_s=0.2)
    assert (result.ok, result.contexts, result.latency_s < 0.2) == (True, (0,), True)


async def test_a_generation_needs_its_terminal_record(node: StubNode) -> None:
    node.will(streams(generate_lines()), streams(generate_lines()[:2]), streams([b'{"error":"x"}\n']))
    assert (await probe(node, "generation")).ok
    assert (await probe(node, "generation")).error == "no_terminal_record"
    assert (await probe(node, "generation")).error == "error_record"
    assert node.bodies[0] == {"model": "m", "prompt": "1", "stream": True, "options": {"num_predict": 1}}


async def test_the_load_path_probe_goes_through_the_loader(node: StubNode) -> None:
    node.will(answers(200, b'{"done":true,"done_reason":"load"}'))
    assert (await probe(node, "load_path")).ok
    assert node.bodies == [{"model": "m", "keep_alive": "1ms"}]


@pytest.mark.parametrize(
    ("behaviour", "kind", "error"),
    [
        (answers(500, b"{}"), "liveness", "server_error"),
        (answers(404, b"{}"), "generation", "client_error"),
        (answers(200, b"garbage"), "residency", "error_record"),
        (answers(200, b'{"models":7}'), "residency", "error_record"),
        (answers(200, b"x" * (ANSWER_LIMIT_BYTES + 1)), "liveness", "error_record"),
        (streams([], then="break"), "liveness", "reset"),
        (HANG, "liveness", "first_token_timeout"),
        (streams(generate_lines()[:1], then="hang"), "generation", "stall_timeout"),
    ],
)
async def test_what_goes_wrong_is_named(node: StubNode, behaviour: Behaviour, kind: ProbeKind, error: str) -> None:
    node.will(behaviour)
    result = await probe(node, kind, timeout_s=0.1)
    assert (result.ok, result.error) == (False, error)
    assert result.latency_s < 0.5


REFUSED = answers(400, b'{"error":"\\"m\\" does not support generate"}')
EMBEDDED = answers(200, b'{"model":"m","embeddings":[[1]]}')
LOADED = answers(200, b'{"model":"m","embeddings":[]}')


async def test_a_model_that_makes_no_text_is_asked_to_embed_from_then_on(node: StubNode) -> None:
    node.will(REFUSED, EMBEDDED, EMBEDDED, LOADED, answers(404, b"{}"), streams(generate_lines()))
    prober = HttpProber({"a": node.address}, ModelNames(["m"]))
    asks: tuple[tuple[ProbeKind, int, str], ...] = (
        ("generation", 0, ""),
        ("generation", 2048, ""),
        ("load_path", 0, ""),
        ("generation", 0, "client_error"),
        ("generation", 0, ""),  # another model has the name now
    )
    try:
        for kind, context_tokens, error in asks:
            result = await prober.perform(Probe(1, "a", kind, "m", 1.0, context_tokens=context_tokens))
            assert (result.ok, result.error) == (not error, error)
    finally:
        await prober.close()
    generate = {"model": "m", "prompt": "1", "stream": True, "options": {"num_predict": 1}}
    assert node.bodies == [
        generate,
        {"model": "m", "input": ["1"]},
        {"model": "m", "input": ["1"], "options": {"num_ctx": 2048}},
        {"model": "m", "keep_alive": "1ms"},
        {"model": "m", "input": ["1"]},
        generate,
    ]


@pytest.mark.parametrize(
    ("behaviours", "error"),
    [
        ((REFUSED, LOADED), "no_terminal_record"),
        ((REFUSED, answers(200, b'{"error":"x"}')), "error_record"),
        ((REFUSED, answers(500, b"{}")), "server_error"),
        ((REFUSED, HANG), "first_token_timeout"),
        ((answers(400, b'{"error":"invalid options"}'), EMBEDDED), "client_error"),
    ],
)
async def test_what_goes_wrong_with_an_embedding_is_named(
    node: StubNode, behaviours: tuple[Behaviour, ...], error: str
) -> None:
    node.will(*behaviours)
    assert (await probe(node, "generation", timeout_s=0.2)).error == error


async def test_nobody_there_is_refused(node: StubNode) -> None:
    await node.stop()
    assert (await probe(node, "liveness")).error == "refused"


def test_names_that_ollama_takes_for_the_same() -> None:
    assert {canonical(name) for name in ("m", "m:latest", "library/m", "registry.ollama.ai/library/m:latest")} == {"m"}
    names = ModelNames(["m:latest"])
    assert names.of("m") == names.of("library/m") == "m:latest"
    assert names.of("other:latest") == "other"
    assert "m" in names
    assert "other" not in names
