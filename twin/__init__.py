"""The digital twin: a model of a cluster of Ollama nodes, how it fails, and the policy that runs it."""

from twin import compiled

compiled.SIMULATOR.install()
