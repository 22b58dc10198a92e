"""How many requests a replica serves at once, learnt from what its node says of them where nobody says it (Ollama's API does
not: `OLLAMA_NUM_PARALLEL` is in no answer).

A request that waits inside the node for a slot has a gap in Ollama's own account: its total time less loading, prompt and
decoding. So the limit is raised by one while requests wait here and none of those there did, and lowered by one when those
there do. What is one too many costs little: a request waits at the node instead of here.
"""

from __future__ import annotations

from typing import Final

from twin.policy.views import ClusterView, Replica
from twin.policy.vocabulary import NEVER_S, AttemptEnded

SLOTS_MAX: Final = 64
WAIT_S: Final = 0.05
WAIT_SHARE: Final = 0.03
"""A gap in a request's account longer than both (the latter of its whole time) is a wait for a slot: with s slots and one
request too many, each waits about 1 / (s + 1) of its time."""
COLD_S: Final = 1.0
"""Who loaded the model had it alone."""
RAISE_BELOW: Final = 0.1
LOWER_FROM: Final = 0.5
FORGET_S: Final = 900.0
"""A limit that was too high is tried again after this long: the node may have been set up anew."""


class Learning:
    """What is being learnt of one replica."""

    __slots__ = ("seen", "too_many", "tried_s", "waited")

    def __init__(self) -> None:
        self.seen = 0
        self.waited = 0
        self.too_many = SLOTS_MAX + 1
        self.tried_s = -NEVER_S


class SlotLearning:
    """Adapts the capacity of replicas."""

    def __init__(self, view: ClusterView) -> None:
        self.view = view
        self.enabled = view.parameters.admission.enabled and view.parameters.admission.learn_slots
        self.learning: dict[tuple[str, str], Learning] = {}

    def ended(self, now: float, ended: AttemptEnded, replica: Replica) -> None:
        """A request that ended well at this replica says whether it waited there."""
        if ended.total_duration_s <= 0.0 or ended.load_duration_s > COLD_S:
            return
        member = self.view.indexed(replica)
        if member.in_flight + 1 < member.capacity:
            return  # it had room
        it = self.learning.setdefault((ended.node, ended.model), Learning())
        worked_s = ended.load_duration_s + ended.prompt_eval_duration_s + ended.eval_duration_s
        it.seen += 1
        if ended.total_duration_s - worked_s > max(WAIT_S, WAIT_SHARE * ended.total_duration_s):
            it.waited += 1
        if it.seen < 2 * member.capacity + 2:
            return
        share = it.waited / it.seen
        it.seen = it.waited = 0
        if share >= LOWER_FROM and member.capacity > 1:
            it.too_many = member.capacity
            it.tried_s = now
            member.capacity -= 1
        elif share <= RAISE_BELOW and member.pool.waiting and member.capacity < SLOTS_MAX:
            if member.capacity + 1 >= it.too_many and now - it.tried_s < FORGET_S:
                return
            member.capacity += 1
        member.pool.place(member, now)

    def known(self, node: str) -> dict[str, int]:
        """The present limit of each model on a node."""
        return {name: self.view.indexed(it).capacity for name, it in self.view.nodes[node].replicas.items()}

    def restore(self, node: str, known: dict[str, int]) -> None:
        """Go on from what was known."""
        if self.enabled:
            for name, replica in self.view.nodes[node].replicas.items():
                self.view.indexed(replica).capacity = known.get(name, replica.capacity)
