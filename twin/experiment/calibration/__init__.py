"""From recorded runs to a profile of the machine, and the twin with that profile held against live runs.

`occupancy.py` works out who was in a batch with whom, `fits.py` the rates, `profile.py` is the profile and its file,
`fidelity.py` holds the twin against reality.
"""
