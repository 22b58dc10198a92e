"""Training and measuring of what the policy learns, from runs whose truth is known."""
