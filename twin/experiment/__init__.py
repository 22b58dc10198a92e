"""A run in a world: replications, verdicts, replay, benchmarks. A world is known here only by its protocol."""
