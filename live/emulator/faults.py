"""The faults of an emulated node: the operations that a real node gets through signals and its cgroup."""

from __future__ import annotations

import math
from typing import get_args

from twin.scenario.conditions import CONDITIONS
from twin.scenario.faults.base import Operation
from twin.sim.node import OllamaNode

OPERATIONS = (
    "kill_runner",
    "pause_runner",
    "resume_runner",
    "stick_loader",
    "garble_runner",
    "expire_models",
    "start_server",
    "slow_gpu",
    "set_condition",
)
"""What can be done through the control endpoint. `kill_server` is a SIGKILL of the process, and needs nothing here;
`start_server` says that the conditions set so far held when the process began."""


class NotPossible(Exception):
    """The operation cannot be done; one line on why, and the HTTP status that fits."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def perform(node: OllamaNode, operation: object, argument: object, condition: object = None) -> None:
    """Do one operation of `twin.scenario.faults.base` to the node. Raises NotPossible.

    `set_condition` says what holds from now on, and the neutral value withdraws it: whoever does several faults at once
    combines their values himself.
    """
    if operation not in OPERATIONS:
        where = "done from outside" if operation in get_args(Operation) else "unknown"
        raise NotPossible(f"operation {operation!r} is {where}; possible here: {', '.join(OPERATIONS)}")
    if operation in ("kill_runner", "pause_runner") and not node.runners and node.loading is None:
        raise NotPossible(f"no runner for {operation}: no model is loaded; send a request first", 409)
    if operation == "kill_runner":
        node.kill_runner()
    elif operation == "pause_runner":
        node.pause_runner()
    elif operation == "resume_runner":
        node.resume_runner()
    elif operation == "stick_loader":
        node.stick_loader()
    elif operation == "garble_runner":
        if isinstance(argument, bool) or not isinstance(argument, int | float) or not 0.0 < argument <= 1.0:
            raise NotPossible(f"garble_runner takes a share of the answers, above 0 up to 1; got {argument!r}")
        node.garble_runner(float(argument))
    elif operation == "expire_models":
        node.expire_models()
    elif operation == "start_server":
        node.malfunctions.server_ended()
    elif operation == "set_condition":
        _set_condition(node, condition, argument)
    elif isinstance(argument, bool) or not isinstance(argument, int | float) or not 0.0 < argument < 1e6:
        raise NotPossible(f"slow_gpu takes how many times as long all takes, e.g. 2.5; got {argument!r}")
    else:
        node.slow_gpu(float(argument))


def _set_condition(node: OllamaNode, name: object, value: object) -> None:
    known = [each for each, row in CONDITIONS.items() if row.part == "node"]
    if not isinstance(name, str) or name not in known:
        raise NotPossible(f"condition {name!r} is unknown; a node has: {', '.join(known)}")
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise NotPossible(f"condition {name} takes a number ({CONDITIONS[name].what}); got {value!r}")
    if value == CONDITIONS[name].neutral:
        node.conditions.withdraw(name)
    else:
        node.conditions.set(name, name, float(value))
    node.conditions_changed()


def status(node: OllamaNode) -> dict[str, object]:
    """What goes on in the node, for tests and people; nothing that decides may read it."""
    return {
        "generations": node.generations,
        "loading": node.loading.model if node.loading is not None else None,
        "pending": len(node.pending),
        "loader_stuck": node.loader_stuck,
        "slowdown": node.slowdown,
        "conditions": {name: node.conditions.values[name] for name in node.conditions.set_now()},
        "runners": [
            {
                "model": runner.model,
                "context_tokens": runner.context_tokens,
                "active": runner.count,
                "queued": len(runner.queue),
                "paused": runner.paused,
                "garbled_share": runner.garbled_share,
            }
            for runner in node.runners.values()
        ],
    }
