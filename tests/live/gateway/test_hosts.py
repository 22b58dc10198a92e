"""By which names the gateway may be called: a page whose name leads to this machine gets nothing."""

import asyncio
import json
import socket

import aiohttp
import pytest

from live.gateway.hosts import REMEMBERED_MAX, Hosts
from tests.live.conftest import MakeNode
from tests.live.gateway.conftest import House
from tests.live.gateway.doubles import answers

OURS = ["localhost", "LOCALHOST:11435", "127.0.0.1:1", "10.1.2.3", "[::1]:11435", "ollama.localhost", "nas.local:80"]
OURS += ["host.docker.internal:11435", socket.gethostname(), f"{socket.gethostname().upper()}:11435"]
FOREIGN = [
    "evil.example",
    "evil.example:11435",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "local",
    "localhost.",
]
FORMS = {
    "/api/chat": lambda said: said["error"],
    "/v1/chat/completions": lambda said: said["error"]["message"],
    "/v1/responses": lambda said: said["error"]["message"],
    "/v1/messages": lambda said: said["error"]["message"] if said["type"] == "error" else "",
}


@pytest.mark.parametrize("host", OURS)
def test_names_of_this_machine_and_addresses_lead_here(host: str) -> None:
    assert Hosts().allow(host)


@pytest.mark.parametrize("host", [*FOREIGN, ":80", "[::1", "a:b:1", "localhost:evil.example", "[evil.example]"])
def test_other_names_do_not(host: str) -> None:
    assert not Hosts().allow(host)


def test_an_operator_names_more_with_their_letters_in_any_case() -> None:
    hosts = Hosts(["LLM.example.org", "*.corp"])
    assert all(hosts.allow(host) for host in ("llm.example.org:443", "LLM.EXAMPLE.ORG", "a.b.corp"))
    assert not any(hosts.allow(host) for host in ("llm-example.org", "llm.example.org.evil", "corp", "evilcorp"))


def test_names_that_somebody_thinks_up_are_served_and_not_all_remembered() -> None:
    hosts = Hosts()
    assert all(hosts.allow(f"{index}.localhost") for index in range(2 * REMEMBERED_MAX))
    assert len(hosts._known) == REMEMBERED_MAX


@pytest.mark.parametrize("path", FORMS)
async def test_a_page_whose_name_leads_here_is_told_so_in_its_dialect(house: House, path: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "input": "x", "max_tokens": 1}
    status, said, _ = await house.post(path, body, headers={"Host": "evil.example:11435"})
    message = FORMS[path](json.loads(said))
    assert (status, message.partition(";")[0]) == (403, "this gateway is not called evil.example:11435")
    assert "hosts" in message
    assert not house.policy.asked


async def test_it_reads_no_list_either(house: House) -> None:
    async with house.http.get(house.url + "/api/tags", headers={"Host": "evil.example"}) as response:
        assert response.status == 403
    assert not house.a.bodies


async def test_a_page_under_a_name_that_leads_here_is_the_gateways_own(make_house) -> None:  # type: ignore[no-untyped-def]
    house: House = await make_house(hosts=("llm.example",))
    house.a.will(answers(200, b'{"version":"1"}'))
    for own, origin, expected in (
        ("llm.example", "https://llm.example", 200),
        ("llm.example", "https://evil.example", 403),
        ("evil.example", "https://evil.example", 403),
        ("evil.example", "https://llm.example", 403),
    ):
        headers = {"Host": own, "Origin": origin}
        async with house.http.get(house.url + "/api/version", headers=headers) as response:
            assert response.status == expected
            assert (response.headers.get("Access-Control-Allow-Origin") == origin) == (expected == 200)


@pytest.mark.parametrize(("hosts", "status"), [((), 200), (("llm.example",), 403)])
async def test_beyond_loopback_any_name_may_lead_here_unless_some_are_given(  # type: ignore[no-untyped-def]
    make_house, hosts: tuple[str, ...], status: int
) -> None:
    house: House = await make_house(hosts=hosts)
    house.a.will(answers(200, b"{}"))
    port = (await house.gateway.start("0.0.0.0")).rpartition(":")[2]
    url = f"http://127.0.0.1:{port}/api/version"
    async with house.http.get(url, headers={"Host": "llm.other"}) as response:
        assert response.status == status


async def test_a_client_of_old_that_names_no_host_is_served(house: House) -> None:
    house.a.will(answers(200, b"{}"))
    host, port = house.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /api/version HTTP/1.0\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()


@pytest.mark.real
async def test_a_real_node_lets_the_same_names_in(make_node: MakeNode) -> None:
    node = await make_node()
    async with aiohttp.ClientSession() as http:
        for host in [*OURS, *FOREIGN]:
            async with http.get(f"{node.address}/api/version", headers={"Host": host}) as response:
                assert (response.status == 200) == Hosts().allow(host), host
