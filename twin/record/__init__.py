"""What happened in a run: one schema for both worlds, and the figures computed from it."""
