"""Hands: what carries out an action of the policy on a node."""
