"""What is taken for one model under several names."""

import pytest

from live.controller.discovery import other_names

Nodes = dict[str, dict[str, str]]


@pytest.mark.parametrize(
    ("nodes", "others"),
    [
        ({"a": {"m": "1", "copy": "1"}, "b": {"m": "2", "copy": "2"}}, {"copy": "m"}),  # each node has its own version
        ({"a": {"m": "1", "copy": "1"}, "b": {"m": "1"}}, {}),  # b would not know the copy
        ({"a": {"m": "1", "copy": "1"}, "b": {"m": "1", "copy": "2"}}, {}),  # it is another one there
        ({"a": {"m": "1", "n": "2"}}, {}),
        ({"a": {"m": "", "n": ""}}, {}),  # nothing is known of them
        ({"a": {"b": "1", "m": "1", "z": "1"}, "b": {}}, {"b": "m", "z": "m"}),
    ],
)
def test_names_are_one_where_every_node_has_the_same_behind_them(nodes: Nodes, others: dict[str, str]) -> None:
    assert other_names(nodes, ["m"]) == others


def test_what_a_registry_may_have_gives_its_name_to_what_was_made_from_it() -> None:
    nodes = {"a": {"assistant": "1", "m": "1"}}
    assert other_names(nodes, [], ["assistant"]) == {"assistant": "m"}
    assert other_names(nodes, ["assistant"], ["assistant"]) == {"m": "assistant"}, "the operator's word goes first"


def test_without_a_preference_the_alphabet_decides() -> None:
    assert other_names({"a": {"z": "1", "b": "1"}}, []) == {"z": "b"}
