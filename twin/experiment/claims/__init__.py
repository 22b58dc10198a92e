"""The seven promises that were made of a system of this kind, each measured, with a verdict.

`promises.py` is the table: what was promised, in which scenario it is looked for, and the limits. `measures.py` computes
what is measured, `parts.py` runs it, `conduct.py` keeps what is finished and says how each promise stands.
"""
