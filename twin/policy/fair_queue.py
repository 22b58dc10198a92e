"""The order in which requests wait: the clients take turns, and each client's own requests keep their order.

So a client with a thousand requests delays one with a single request by one request, not by a thousand. Where there is
but one client, or nobody says who it is, this is first come, first served.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from typing import Final

from twin.policy.vocabulary import RequestId

CLIENT_SHARE: Final = 0.75
"""Of the places to wait that one known client may take: the rest is for those who come when it has taken them."""


class FairQueue:
    """Ids of waiting requests; it may hold some that wait no longer, which are passed over."""

    __slots__ = ("first", "lanes", "turns")

    def __init__(self) -> None:
        self.first: deque[RequestId] = deque()  # whose turn has been already: they come before all others
        self.lanes: dict[int, deque[RequestId]] = {}  # by client
        self.turns: deque[int] = deque()  # the clients that have a lane, the next one first

    def __len__(self) -> int:
        return len(self.first) + sum([len(lane) for lane in self.lanes.values()])

    def append(self, request_id: RequestId, client: int) -> None:
        """A request begins to wait."""
        lane = self.lanes.get(client)
        if lane is None:
            lane = self.lanes[client] = deque()
            self.turns.append(client)
        lane.append(request_id)

    def put_first(self, request_id: RequestId) -> None:
        """A request waits that has waited before."""
        self.first.appendleft(request_id)

    def pop(self, waiting: Container[RequestId]) -> RequestId | None:
        """The next one that is waiting; None where nobody is."""
        while self.first:
            request_id = self.first.popleft()
            if request_id in waiting:
                return request_id
        while self.turns:
            client = self.turns.popleft()
            lane = self.lanes[client]
            found: RequestId | None = None
            while lane and found is None:
                request_id = lane.popleft()
                if request_id in waiting:
                    found = request_id
            if lane:
                self.turns.append(client)
            else:
                del self.lanes[client]
            if found is not None:
                return found
        return None

    def full_for(self, client: int, places: int) -> bool:
        """Whether a known client has as many places as one client may take."""
        lane = self.lanes.get(client) if client else None
        return lane is not None and len(lane) >= CLIENT_SHARE * places

    def ahead_of(self, client: int) -> int:
        """At most how many come before a new request of this client."""
        own = self.lanes.get(client)
        rounds = len(own) + 1 if own is not None else 1
        others = [min(len(lane), rounds) for other, lane in self.lanes.items() if other != client]
        return len(self.first) + rounds - 1 + sum(others)
