"""A stand-in Ollama node: the twin's node model served over HTTP in wall-clock time."""
