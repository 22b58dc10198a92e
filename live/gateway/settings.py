"""The gateway's limits."""

from __future__ import annotations

from dataclasses import dataclass, field

from live.gateway.http_server import MIB, ServerLimits


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Limits of the gateway; what concerns the choice of a node is the policy's (`twin.policy.parameters`)."""

    request_timeout_s: float = 600.0
    """A request's deadline where its client gives none in `X-Request-Timeout`."""
    connect_timeout_s: float = 1.0
    """Longest wait for a connection to a node."""
    read_timeout_s: float = 5.0
    """Longest wait for a node's answer to a question such as `/api/tags`; then the next node is asked."""
    read_limit_bytes: int = 32 * MIB
    """Longest such answer: it is read as a whole, and a list is taken apart while everybody waits."""
    shutdown_grace_s: float = 10.0
    """How long running requests may go on when the gateway stops."""
    server: ServerLimits = field(default_factory=ServerLimits)
    """What a client may ask of the server before anybody has looked at its request."""
    line_limit_bytes: int = 16 * MIB
    """Longest record of an answer."""
    answer_limit_bytes: int = 256 * MIB
    """Longest answer of a node to one request."""
    slots_per_model: int = 1
    """Requests that a node serves at once of a model that is learnt while running."""
    inventory_period_s: float = 0.0
    """How often the nodes are asked what they have; 0: only when there is a reason."""
    normalise_context: bool = True
    """Send all requests for a model with one `num_ctx`, so that clients do not make each other reload it."""
    continue_text: bool = True
    """Where another node says something else to the same request and seed, have one go on after the text so far."""
    context_tokens_max: int = 131_072
    """What a client asks beyond this is sent on as it is, and given to nobody else."""
    poison_nodes_min: int = 3
    """A request that broke this many nodes before its first token, and was served by none, is not tried again ..."""
    poison_hold_s: float = 600.0
    """... for this long."""
    origins: tuple[str, ...] = ()
    """Web pages that may use the gateway, beside those of its own machine."""
    hosts: tuple[str, ...] = ()
    """Names by which it may be called, beside those of its own machine; beyond loopback any name where none is given."""
    client_wait_s: float = 10.0
    """How long in all a node waits for the client of a request to read; then the client is given up."""
    refusal_limit_bytes: int = MIB
    """Longest body of an error."""
