"""The Ollama-compatible reverse proxy: a drop-in for OLLAMA_HOST."""

from live.gateway.compiled import GATEWAY

GATEWAY.install()
