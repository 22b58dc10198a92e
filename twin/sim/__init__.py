"""The simulated world: engine, nodes, hardware, network, workload, faults, checkers."""
