"""What is remembered of requests that break nodes."""

from __future__ import annotations

import math

from live.gateway.poison import PoisonMemory
from live.gateway.request_log import FailedAttempt


def broke(*nodes_and_errors: tuple[str, str], tokens: int = 0) -> list[FailedAttempt]:
    return [
        FailedAttempt(1, number, node, 0.0, math.nan, 1.0, error, tokens, "")
        for number, (node, error) in enumerate(nodes_and_errors)
    ]


def remembered(attempts: list[FailedAttempt]) -> str:
    memory = PoisonMemory(3, 600.0)
    memory.failed(7, attempts, 0.0)
    return memory.nodes_broken_by(7, 1.0)


def test_a_request_that_broke_every_node_that_it_met_is_remembered_also_where_it_met_some_of_them_twice() -> None:
    each_once = [("a", "reset"), ("b", "server_error"), ("c", "reset")]
    assert remembered(broke(*each_once)) == "a, b, c"
    assert remembered(broke(*each_once, ("a", "refused"), ("b", "reset"))) == "a, b, c"


def test_where_one_node_did_not_break_or_gave_a_token_or_two_alone_broke_it_is_not() -> None:
    assert remembered(broke(("a", "reset"), ("b", "reset"), ("c", "reset"), ("d", "first_token_timeout"))) == ""
    assert remembered(broke(("a", "reset"), ("b", "reset"), ("c", "reset"), tokens=1)) == ""
    assert remembered(broke(("a", "reset"), ("b", "reset"), ("a", "reset"))) == ""


def test_it_is_forgotten_after_its_time() -> None:
    memory = PoisonMemory(3, 600.0)
    memory.failed(7, broke(("a", "reset"), ("b", "reset"), ("c", "reset")), 0.0)
    assert memory.nodes_broken_by(7, 600.0)
    assert not memory.nodes_broken_by(7, 600.1)
    assert not memory.nodes_broken_by(8, 1.0)
