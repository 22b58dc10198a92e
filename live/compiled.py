"""What every request and every record goes through in the gateway and the controller, compiled (see `twin.compiled`)."""

from __future__ import annotations

from twin.compiled import HotModules

GATEWAY = HotModules(
    "the gateway",
    "live",
    [
        "controller/contexts.py",
        "controller/driver.py",
        "controller/recent_load.py",
        "controller/tally.py",
        *(
            f"gateway/{name}.py"
            for name in (
                "attempt",
                "call",
                "chat_as_native",
                "client_connection",
                "context",
                "dialect",
                "form",
                "hosts",
                "http_head",
                "http_server",
                "lines",
                "messages",
                "native",
                "node_connection",
                "node_pool",
                "openai",
                "plain_endpoints",
                "poison",
                "relay",
                "request_log",
                "responses",
                "served_request",
                "server",
                "timers",
                "transcript",
                "typed_events",
            )
        ),
    ],
)
