"""The driver of the policy: its clock, its probes, and what it orders, carried out."""
