"""The real world, driving the same policy as the twin."""
