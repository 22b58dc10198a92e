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
    shutdown_grace_s: float = 10.0
    """How long running requests may go on when the gateway stops."""
    server: ServerLimits = field(default_factory=ServerLimits)
    """What a client may ask of the server before anybody has looked at its request."""
    line_limit_bytes: int = 16 * MIB
    """Longest record of an answer."""
    answer_limit_bytes: int = 256 * MIB
    """Longest answer of a node to one request."""
    refusal_limit_bytes: int = MIB
    """Longest body of an error."""
