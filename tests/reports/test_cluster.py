"""The page "Cluster now" on a real controller: one node serves, one is drained, one was killed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from reports.app.beliefs import budgets, of_nodes, remedies
from tests.reports.controller import MODEL, Controller, controlled
from tests.reports.test_app import draw, words_of


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    """Its node b is drained, its node c is dead."""
    with controlled(tmp_path_factory.mktemp("controller")) as running:
        for _ in range(3):
            running.generate()
        running.call("POST", "/-/nodes/b/drain")
        running.until("b", operator="drained")
        running.kill("c")
        running.until("c", health="down")
        yield running


def opened(admin: str, monkeypatch: pytest.MonkeyPatch, token_file: str = "") -> AppTest:
    monkeypatch.setenv("OLLAMAMAX_ADMIN", admin)
    monkeypatch.setenv("OLLAMAMAX_TOKEN_FILE", token_file)
    page = AppTest.from_function(draw, kwargs={"name": "cluster"}, default_timeout=60).run()
    assert not page.exception, page.exception
    return page


def tables_of(page: AppTest) -> list[pd.DataFrame]:
    return [each.value for each in page.table]


def test_it_shows_each_node_with_its_health_orders_and_load(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = opened(controller.admin, monkeypatch)
    assert {each.label: each.value for each in page.metric} == {
        "Nodes that get traffic": "1 of 3",
        "Requests in flight": "0",
        "Waiting": "0",
        "Incidents that go on": page.metric[3].value,
    }
    nodes = tables_of(page)[0]
    assert list(nodes.index) == ["a", "b", "c"]
    assert list(nodes["Ordered"]) == ["–", "drained", "–"]
    assert nodes["Health"]["a"] == "serving" and nodes["Health"]["c"] == "down"
    assert nodes["Loaded"]["a"] == MODEL
    assert nodes["Incident"]["c"] == "server down"
    assert len(page.get("vega_lite_chart")) == 1


def test_it_shows_what_was_taken_for_a_failure_and_what_was_done_with_their_ages(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = opened(controller.admin, monkeypatch)
    incidents, actions = tables_of(page)[1:3]
    assert list(incidents["Node"]) == ["c"]
    assert list(incidents["Diagnosis"]) == ["server down"]
    assert all(age.endswith("\u00a0s\u00a0ago") for age in [*incidents.index, *actions.index])
    drain = actions[actions["Action"] == "drain"].iloc[0]
    assert drain["Node"] == "b"
    assert drain["Result"].startswith("done after ")


def test_it_shows_what_the_policy_goes_by(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    page = opened(controller.admin, monkeypatch)
    beliefs = tables_of(page)[3]
    assert list(beliefs.index) == ["a", "b", "c"]
    assert beliefs["At once"]["a"] == f"{MODEL} 4"
    assert beliefs["Last known to generate"]["a"].endswith("\u00a0s\u00a0ago")
    assert "Retries that the budget allows at this moment" in words_of(page)
    assert "nodes" in page.json[0].value


def test_it_only_looks(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    page = opened(controller.admin, monkeypatch)
    assert not page.button
    assert "This page gives no orders" in words_of(page)


def test_a_look_later_shows_what_has_changed(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    page = opened(controller.admin, monkeypatch)
    before = int(page.metric[0].value.split()[0])
    controller.call("POST", "/-/nodes/b/return")
    controller.until("b", operator="")
    page.run()
    assert int(page.metric[0].value.split()[0]) == before + 1
    controller.call("POST", "/-/nodes/b/drain")
    controller.until("b", operator="drained")


def test_a_controller_that_wants_a_token_says_so_and_one_that_is_gone_is_said_to_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with controlled(tmp_path, ["a"], token="s3cret") as running:
        (said,) = opened(running.admin, monkeypatch).info
        assert "it wants its token" in said.value
        page = opened(running.admin, monkeypatch, str(tmp_path / "token"))
        assert page.metric[0].value == "1 of 1"
        assert "None since the controller started." in words_of(page)
        running.kill("serve")
        page.run()
        assert not page.exception
        (gone,) = page.warning
        assert gone.value.startswith("The controller answered until ")
        assert "and is gone" in gone.value and "Connection refused" in gone.value
        assert not page.metric
    assert "s3cret" not in gone.value


@pytest.mark.parametrize(
    ("admin", "said"),
    [
        ("http://127.0.0.1:9", "does not answer (Connection refused)"),
        ("127.0.0.1:9", "http://127.0.0.1:9/-/nodes does not answer"),
        ("http://127.0.0.1:port", "does not answer (nonnumeric port: 'port')"),
        ("ftp://127.0.0.1", "is no address of an admin API; one looks like http://127.0.0.1:11436"),
        ("http://no such host", "does not answer"),
        ("", "no address is given; one looks like"),
    ],
)
def test_a_wrong_address_is_one_clear_line(admin: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = opened(admin, monkeypatch).info
    assert said in line.value.replace("\\", "")
    assert "\n" not in line.value
    assert "Give its address above, or start one:" in line.value


def test_the_gateways_address_is_told_from_that_of_the_admin_api(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = opened(controller.gateway, monkeypatch).info
    assert "it is no admin API; that is where --admin of ollamamax serve says" in line.value


def test_who_speaks_no_http_is_no_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        greeter = threading.Thread(target=greet)
        greeter.start()
        (line,) = opened(f"http://127.0.0.1:{listening.getsockname()[1]}", monkeypatch).info
        greeter.join()
    assert "does not answer (SSH-2.0-OpenSSH" in line.value.replace("\\", "")


def test_a_token_of_two_words_is_not_sent_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("first\nsecond")
    (line,) = opened("http://127.0.0.1:9", monkeypatch, str(tmp_path / "token")).info
    assert "has no token" in line.value and "second" not in line.value


def test_beliefs_are_said_in_words() -> None:
    policy = {
        "nodes": {"a": {"passed_s_ago": 1.25, "slots": {"m": 4}, "penalty": 2, "rising": 0}, "b": {}},
        "slow": {"a": "a token takes 3.0 times its normal time on this node"},
        "tracker": {"rates_rps": {"a": 0.5, "b": 0.0}, "restart_s": 4.0, "load_s": 5.0},
        "predictor": {"a": {"forecasts": [["gpu_dead", 0.02, 60.0, 30.0, []], ["vram_leak", 0.4, 600.0, 90.0, []]]}},
        "healer": {"rates": {"restart server_down": [3.0, 1.0], "restart server_down a": [3.0, 1.0]}},
        "redundancy": {"factors": {"m": [1, "it is busy", -1.0, -1.0], "n": [0, "", -1.0, -1.0]}},
        "foresight": {"budget": 1.5, "endangered": {"b": [20.0, "it gets hot"]}},
        "retry_budget": 10.0,
    }
    first, second = of_nodes(policy)
    assert first["Set back by"] == "2, as it is slow; a token takes 3.0 times its normal time on this node"
    assert first["Forecast"] == "vram leak within 600 s: 40 %"
    assert first["Serves"] == "0.500 requests/s"
    assert set(second.values()) == {"b", "–"}
    assert remedies(policy) == [{"Remedy": "restart", "Against": "server down", "Helped": "3 of 4"}]
    said = " ".join(budgets(policy))
    assert "It keeps 1 more replica of m: it is busy." in said
    assert "b is in danger: it gets hot." in said
    assert "of n" not in said


def test_a_controller_that_says_nothing_of_its_policy_breaks_nothing() -> None:
    assert of_nodes({}) == [] and remedies({}) == [] and budgets({}) == []
