"""A cluster on one machine for drills: real Ollama processes, their hardware, and a real Toxiproxy as their network."""
