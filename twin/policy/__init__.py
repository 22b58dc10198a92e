"""What decides: router, detectors, healer, redundancy. Sans-IO: time, observations and results come in as arguments.

Three drivers run these very objects: the simulator (`twin.sim`), the live controller (`live.controller`) and the
replay of a recorded run (`twin.experiment.replay`).
"""
