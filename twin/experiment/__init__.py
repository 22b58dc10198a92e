"""A run in a world, and what is made of several: replications, comparisons, replay."""
