"""What to run: the scenario file, its schema, its loader, and the closed vocabulary of faults and workloads."""
