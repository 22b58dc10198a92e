"""What is particular to one kind of hand."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psutil
import pytest
from aiohttp import web

from live.hands.kubernetes import ApiServer, KubernetesHands, Workload
from live.hands.ollama_api import OllamaApiHands
from live.hands.process import processes_with
from live.hands.protocol import HandError, HandResult
from live.hands.supervisor import MARK
from live.hands.systemd import SystemdHands, Unit
from live.hands.webhook import Webhook, WebhookHands, signature
from tests.live.conftest import MODEL, MakeNode
from tests.live.gateway.doubles import StubNode, answers, streams, until
from tests.live.hands import benches
from tests.live.hands.benches import FakeKubernetes, FakeSystemctl, Supervised, action

# -- the supervised process ---------------------------------------------------------------------------------------


@pytest.fixture
async def supervised(tmp_path: Path) -> AsyncIterator[Supervised]:
    async with benches.supervised(tmp_path) as bench:
        assert isinstance(bench, Supervised)
        yield bench


async def test_a_server_that_dies_is_started_again(supervised: Supervised) -> None:
    first = supervised.supervisor.pid
    os.kill(first, 9)
    await until(lambda: supervised.supervisor.restarts == 1, 10)
    assert supervised.supervisor.pid != first
    assert supervised.done() == 1


async def test_one_that_does_not_start_is_tried_again_with_pauses_that_double(supervised: Supervised) -> None:
    await supervised.set("refuses")
    os.kill(supervised.supervisor.pid, 9)
    await asyncio.sleep(2.5)  # pauses of 0.1, 0.2, 0.4, 0.8 s and the looks in between
    assert 1 <= supervised.done() <= 6
    await supervised.set("works")
    await until(supervised.supervisor.is_alive, 15)
    assert "the disk is full" in (supervised.starts.parent / "ollama.log").read_text()


async def test_a_stop_ends_it_for_good(supervised: Supervised) -> None:
    await supervised.supervisor.stop()
    await asyncio.sleep(0.5)
    assert not supervised.supervisor.is_alive()
    assert supervised.done() == 0


async def test_what_a_killed_supervisor_left_is_ended_before_the_start(tmp_path: Path) -> None:
    async with benches.supervised(tmp_path) as bench:
        assert isinstance(bench, Supervised)
        url = bench.supervisor._url
        orphan = await asyncio.create_subprocess_exec("sleep", "60", env={MARK: url, "PATH": os.environ["PATH"]})
        assert len(processes_with(MARK, url)) == 2
        await bench.supervisor.stop()
        await bench.supervisor.start()
        assert await asyncio.wait_for(orphan.wait(), 5) == -9


# -- systemd ------------------------------------------------------------------------------------------------------


async def systemctl(tmp_path: Path, unit: Unit, mood: str = "works") -> tuple[HandResult, list[str]]:
    async with benches.systemd(tmp_path, unit) as bench:
        assert isinstance(bench, FakeSystemctl)
        await bench.set(mood)  # type: ignore[arg-type]
        return await bench.hands.perform(action()), bench.calls()


async def test_systemctl_is_asked_to_restart_and_then_whether_it_is_active(tmp_path: Path) -> None:
    result, calls = await systemctl(tmp_path, Unit("ollama@{node}.service", host="root@{host}"))
    assert result == HandResult("done", "ollama@a.service is active")
    assert calls == [
        "--no-ask-password --host root@gpu1 restart ollama@a.service",
        "--no-ask-password --host root@gpu1 is-active ollama@a.service",
    ]


async def test_a_unit_of_a_user_is_asked_of_the_users_manager(tmp_path: Path) -> None:
    _, calls = await systemctl(tmp_path, Unit(user=True))
    assert calls[0] == "--no-ask-password --user restart ollama.service"


async def test_a_unit_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    """The script hangs in `restart` until the mood changes, which it does when the kill is asked for."""
    async with benches.systemd(tmp_path, Unit(kill_after_s=0.1)) as bench:
        assert isinstance(bench, FakeSystemctl)
        killed = tmp_path / "killed"
        text = bench.script.path.read_text()
        text = text.replace("sleep 60", f"while [ ! -e {killed} ]; do sleep 0.02; done")
        bench.script.path.write_text(text.replace("case", f'[ "$2" = kill ] && : > {killed} && exit 0\ncase', 1))
        await bench.set("hangs")
        async with asyncio.timeout(10):
            result = await bench.hands.perform(action())
        assert result == HandResult("done", "ollama.service is active, after it had to be killed")
        assert bench.calls()[1] == "--no-ask-password kill --signal=SIGKILL ollama.service"


def systemd_runs() -> bool:
    return Path("/run/systemd/system").is_dir() and shutil.which("systemd-run") is not None and os.geteuid() == 0


@pytest.mark.skipif(not systemd_runs(), reason="no systemd runs here, or not as root: the fake systemctl has to do")
def test_a_real_unit_is_really_restarted() -> None:
    unit = f"ollamamax-test-{os.getpid()}.service"
    subprocess.run(["systemd-run", "--unit", unit, "sleep", "600"], check=True, capture_output=True)

    def main_pid() -> str:
        words = ["systemctl", "show", "--property=MainPID", "--value", unit]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()

    try:
        before = main_pid()
        result = asyncio.run(SystemdHands({"a": Unit(unit)}, {"a": ""}).perform(action()))
        assert result.status == "done", result.detail
        assert main_pid() not in ("0", before)
    finally:
        subprocess.run(["systemctl", "stop", unit], check=False, capture_output=True)


# -- the webhook --------------------------------------------------------------------------------------------------


def test_the_signature_is_hmac_sha256_of_timestamp_and_body() -> None:
    """By `printf '1700000000.{}' | openssl dgst -sha256 -hmac secret`."""
    words = ["openssl", "dgst", "-sha256", "-hmac", "secret", "-hex"]
    digest = subprocess.run(words, input=b"1700000000.{}", check=True, capture_output=True).stdout.split()[-1].decode()
    assert signature(b"secret", "1700000000", b"{}") == f"sha256={digest}"


@pytest.fixture
async def hook() -> AsyncIterator[StubNode]:
    hook = StubNode()
    await hook.start()
    yield hook
    await hook.stop()


async def order(hook: StubNode, *, tries: int = 3, timeout_s: float = 5.0) -> HandResult:
    hands = WebhookHands(Webhook(hook.address, b"s", timeout_s, tries, pause_s=0.01), {"a": "http://gpu1:1"})
    try:
        return await hands.perform(action())
    finally:
        await hands.close()


async def test_it_is_sent_again_with_the_same_key_until_it_is_answered(hook: StubNode) -> None:
    hook.will(answers(503, b""), answers(429, b""), answers(200, b""))
    assert (await order(hook)).status == "done"
    keys = [headers["Idempotency-Key"] for headers in hook.headers]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    await order(hook)
    assert hook.headers[-1]["Idempotency-Key"] != keys[0]
    assert hook.bodies[0] == {
        "id": 1,
        "kind": "restart",
        "node": "a",
        "model": "m",
        "address": "http://gpu1:1",
        "reason": "it hangs",
    }


async def test_what_it_refuses_is_not_sent_again(hook: StubNode) -> None:
    hook.will(answers(403, b'{"detail": "no such\\nnode"}'))
    assert await order(hook) == HandResult("failed", f"{hook.address} answered 403: no such node")
    assert len(hook.bodies) == 1


async def test_an_answer_that_never_comes_leaves_it_unknown(hook: StubNode) -> None:
    hook.will(streams([], then="hang"))
    result = await order(hook, tries=2, timeout_s=0.1)
    assert result.status == "unknown"
    assert "no answer within 0.1 s (2 tries)" in result.detail


# -- Kubernetes ---------------------------------------------------------------------------------------------------


async def test_an_api_server_of_another_ca_gets_no_token(tmp_path: Path) -> None:
    async with benches.kubernetes(tmp_path) as bench:
        assert isinstance(bench, FakeKubernetes)
        (tmp_path / "other").mkdir()
        other, _ = benches.certificate(tmp_path / "other")
        server = ApiServer(bench.url, tmp_path / "token", other)
        hands = KubernetesHands(server, {"a": Workload("rollout", "ollama-a", "ai")}, {"a": ""})
        with pytest.raises(HandError, match="certificate verify failed"):
            await hands.perform(action())
        await hands.close()
        assert bench.asked == []


async def test_a_renewed_token_is_read_anew(tmp_path: Path) -> None:
    async with benches.kubernetes(tmp_path) as bench:
        (tmp_path / "token").write_text("an old one")
        with pytest.raises(HandError, match="401: Unauthorized"):
            await bench.hands.perform(bench.order)
        (tmp_path / "token").write_text("the-token")
        assert (await bench.hands.perform(bench.order)).status == "done"


async def test_a_restart_by_scaling_that_is_broken_off_scales_back(tmp_path: Path) -> None:
    async with benches.kubernetes(tmp_path, "scale") as bench:
        assert isinstance(bench, FakeKubernetes)
        answered = bench._scale
        bench._scale = lambda *request: (  # type: ignore[method-assign]  # the old pod does not go
            web.json_response({"spec": {"replicas": 1}, "status": {"replicas": 1}})
            if request[0] == "GET"
            else answered(*request)
        )
        performing = asyncio.create_task(bench.hands.perform(bench.order))
        await until(lambda: bench.scales == [0])
        performing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await performing
        await until(lambda: bench.scales == [0, 1])


# -- Ollama's API -------------------------------------------------------------------------------------------------


def progress(*records: dict[str, object]) -> list[bytes]:
    return [json.dumps(record).encode() + b"\n" for record in records]


async def of_node(hook: StubNode, *args: object, **more: object) -> HandResult:
    hands = OllamaApiHands({"a": hook.address})
    try:
        return await hands.perform(action(*args, **more))  # type: ignore[arg-type]
    finally:
        await hands.close()


async def test_a_pull_is_done_only_with_its_line_of_success(hook: StubNode) -> None:
    hook.will(streams(progress({"status": "pulling manifest"}, {"status": "success"})))
    assert await of_node(hook, "pull") == HandResult("done")
    hook.behaviours.clear()
    hook.will(streams(progress({"status": "pulling"}, {"error": "digest mismatch, file must be downloaded again"})))
    assert await of_node(hook, "pull") == HandResult("failed", "a: digest mismatch, file must be downloaded again")
    hook.behaviours.clear()
    hook.will(streams(progress({"status": "pulling"})))
    assert (await of_node(hook, "pull")).status == "unknown"


async def test_where_a_pull_finds_all_files_there_they_are_deleted_and_fetched(hook: StubNode) -> None:
    there = {"status": "pulling 6a0746a1", "total": 5, "completed": 5}
    missing = [{"status": "pulling 6a0746a1", "total": 5}, {"status": "pulling 6a0746a1", "total": 5, "completed": 5}]
    success = {"status": "success"}
    hook.will(streams(progress(there, success)), answers(200, b""), streams(progress(*missing, success)))
    assert await of_node(hook, "pull") == HandResult("done", "its files were deleted, and fetched anew")
    assert hook.bodies == [{"model": "m"}] * 3
    hook.bodies.clear()
    assert await of_node(hook, "pull") == HandResult("done"), "what was missing has been fetched: nothing is deleted"
    assert len(hook.bodies) == 1


async def test_what_the_registry_does_not_have_is_never_deleted(hook: StubNode) -> None:
    hook.will(streams(progress({"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"})))
    assert (await of_node(hook, "pull")).status == "failed"
    assert len(hook.bodies) == 1


async def test_a_copy_needs_a_name(hook: StubNode) -> None:
    hook.will(answers(200, b""))
    with pytest.raises(HandError, match="needs a new name"):
        await of_node(hook, "copy")
    assert await of_node(hook, "copy", destination="m2") == HandResult("done")
    assert hook.bodies == [{"source": "m", "destination": "m2"}]


@pytest.mark.real
async def test_a_real_ollama_loads_copies_unloads_and_refuses(make_node: MakeNode) -> None:
    node = await make_node()
    hands = OllamaApiHands({"a": node.address})

    async def do(kind: str, model: str = MODEL, destination: str = "") -> HandResult:
        order = benches.Action(1, kind, "a", model, "", 60.0, 0.0, destination)  # type: ignore[arg-type]
        return await hands.perform(order)

    try:
        assert await do("load") == HandResult("done")
        assert len(node.runner_pids()) == 1
        assert await do("copy", destination="a-copy") == HandResult("done")
        assert await do("load", "a-copy") == HandResult("done")
        assert await do("unload") == HandResult("done")
        await until(lambda: len([p for p in node.runner_pids() if psutil.pid_exists(p)]) <= 1, 10)
        assert "not found" in (await do("load", "nothing")).detail
        assert (await do("copy", "nothing", "x")).status == "failed"
        assert (await do("pull", "127.0.0.1:9/none/such")).status == "failed"
    finally:
        await hands.close()
        # The nodes of all tests share one folder of models.
        gone = {"model": "a-copy"}
        async with aiohttp.ClientSession() as http, http.delete(f"{node.address}/api/delete", json=gone) as answer:
            assert answer.status in (200, 404)
