"""What runs beside each Ollama: telemetry of its machine, and the hands."""
