"""The Ollama-compatible reverse proxy: a drop-in for OLLAMA_HOST."""
