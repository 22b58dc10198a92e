"""What can be done to a node of a drill is what the scenario says, as in the twin."""

from pathlib import Path
from typing import cast, get_args

from live.hands.protocol import HandResult
from live.rig.cluster import RigCluster
from live.rig.injection import LiveInjection
from twin.policy.vocabulary import Action, HandKind
from twin.scenario.loader import load

NODE_CRASH = Path(__file__).parents[3] / "scenarios/node-crash.yaml"


async def test_a_rig_does_to_each_node_what_its_group_has_hands_for_and_no_more() -> None:
    groups = "cluster.groups=[{count: 1}, {count: 1, hands: [load, restart]}, {count: 1, hands: []}]"
    scenario = load(NODE_CRASH, [groups, "cluster.models={llama3.1:8b: {replicas: 3}}"])
    hands = RigCluster(scenario, "emulated", lambda _line: None).hands(cast(LiveInjection, None))
    assert [hands.kinds(name) for name in scenario.cluster.node_names()] == [
        frozenset(get_args(HandKind)),
        {"load", "restart"},
        frozenset(),
    ]
    ordered = Action(1, "restart", "node-2", "", "an operator ordered it", 60.0, 0.0)
    assert await hands.perform(ordered) == HandResult("no_hand", "no hand is configured for restart of node-2")
    await hands.close()
