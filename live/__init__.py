"""The real world, driving the same policy as the twin."""

from live.compiled import GATEWAY

GATEWAY.install()
